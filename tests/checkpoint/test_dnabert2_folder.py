"""The folder with the names of DNABERT-2 is none that transformers takes for a BERT of its own."""

import pytest
from small_encoders import write_encoder

from spacescale.checkpoint.dnabert2 import convert_to_dnabert2

transformers = pytest.importorskip("transformers", minversion="5")


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("kind", ["AutoConfig", "AutoModel", "AutoModelForMaskedLM"])
def test_auto_classes_refuse_it(kind, trusted, tmp_path):
    write_encoder(tmp_path / "tiny")
    convert_to_dnabert2(tmp_path / "tiny", tmp_path / "theirs")
    with pytest.raises(ValueError, match="model type `mosaic_bert` but Transformers does not"):
        getattr(transformers, kind).from_pretrained(tmp_path / "theirs", trust_remote_code=trusted)
