"""Fine-tune a pretrained model on tasks with a label per sequence, beside what it has to beat."""
