"""Text to tokens and back: nothing is lost, nothing is added, and every end of an answer is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rftfm_ray.errors import ModelError
from rftfm_ray.models import ASSETS
from rftfm_ray.rollout.text import TextCodec

TINY = ASSETS / "tiny"
PAD, EOS, UNKNOWN = 0, 1, 2
ALPHABET = "0123456789+-=c;e"
CODEC = TextCodec(str(TINY))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the shipped model's directory without its weights."""
    return Path(shutil.copytree(TINY, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors")))


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer with tokens of several characters, some of them with a semicolon."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<eos>", "<|end|>"]
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, special_tokens=special)
    tokenizer.train_from_iterator(["call 12;\nsum 34;\n ; ;"] * 20, trainer)
    folder = tmp_path_factory.mktemp("bpe")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[0]).save_pretrained(folder)
    return folder


@given(text=st.text(alphabet=ALPHABET, max_size=40))
def test_shipped_tokenizer_gives_one_token_per_character_and_all_of_it_back(text: str) -> None:
    ids = CODEC.encode(text)
    assert len(ids) == len(text)
    assert not {PAD, EOS, UNKNOWN} & set(ids)
    assert CODEC.decode(ids) == text


@given(before=st.text(ALPHABET, max_size=5), unknown=st.sampled_from("x C€🙂\n\t"), after=st.text(ALPHABET, max_size=5))
def test_unknown_character_becomes_the_unknown_token_in_its_place(before: str, unknown: str, after: str) -> None:
    assert CODEC.unknown_id == UNKNOWN
    assert CODEC.encode(before + unknown + after) == [*CODEC.encode(before), UNKNOWN, *CODEC.encode(after)]


@pytest.mark.parametrize(("token", "text"), [(PAD, "<pad>"), (EOS, "<eos>"), (UNKNOWN, "<unk>")])
def test_special_tokens_stand_in_the_text_by_name(token: int, text: str) -> None:
    one, two = CODEC.encode("12")
    assert CODEC.decode([one, token, two]) == f"1{text}2"


def test_nothing_is_nothing() -> None:
    assert CODEC.encode("") == []
    assert CODEC.decode([]) == ""


def test_encoding_adds_no_special_tokens_even_where_the_tokenizer_would(bpe: Path, tmp_path: Path) -> None:
    model = shutil.copytree(bpe, tmp_path / "model")
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<eos>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<eos>": {"id": "<eos>", "ids": [0], "tokens": ["<eos>"]}},
    }
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert PreTrainedTokenizerFast.from_pretrained(model).encode("12")[-1] == 0
    assert TextCodec(str(model)).encode("12") == TextCodec(str(bpe)).encode("12")


@given(text=st.text(alphabet=" .,'?!;n1\n€", max_size=20))
def test_byte_level_text_comes_back_whole(bpe: Path, text: str) -> None:
    codec = TextCodec(str(bpe))
    assert codec.decode(codec.encode(text)) == text


def test_decoding_does_not_tidy_spaces(tmp_path: Path) -> None:
    vocabulary = {piece: i for i, piece in enumerate(["<eos>", *"12 .,?!'"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Split(Regex("."), "isolated"), decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(tmp_path)
    codec = TextCodec(str(tmp_path))
    assert codec.decode(codec.encode("1 . 2 , 1 ? 2 !")) == "1 . 2 , 1 ? 2 !"


def declare(model: Path, ends: object) -> None:
    """Write `eos_token_id` into the model's generation_config.json."""
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))


@pytest.mark.parametrize(
    ("declared", "expected"), [(1, (1,)), (15, (1, 15)), ([17, 1, 15], (1, 17, 15)), ([], (1,)), (None, (1,))]
)
def test_every_declared_end_counts_once_the_tokenizers_own_first(
    model: Path, declared: object, expected: tuple[int, ...]
) -> None:
    declare(model, declared)
    assert TextCodec(str(model)).eos_ids == expected


def test_generation_configuration_is_not_needed(model: Path) -> None:
    (model / "generation_config.json").unlink()
    assert TextCodec(str(model)).eos_ids == (EOS,)


def test_tokenizer_without_end_of_sequence_is_refused(model: Path) -> None:
    file = model / "tokenizer_config.json"
    config = json.loads(file.read_text())
    del config["eos_token"]
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"no end-of-sequence token.*set eos_token in its tokenizer_config\.json"):
        TextCodec(str(model))


@pytest.mark.parametrize("content", ["", "{}", '{"added_tokens": [], "model": {"type": "WordLevel", "vocab": []}}'])
def test_damaged_tokenizer_is_refused_in_one_line(model: Path, content: str) -> None:
    (model / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match="holds no tokenizer that loads") as caught:
        TextCodec(str(model))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [True, False], ids=["with config.json", "empty directory"])
def test_directory_without_a_tokenizer_is_refused_in_one_line(model: Path, config: bool) -> None:
    for file in model.iterdir():
        if not (config and file.name == "config.json"):
            file.unlink()
    with pytest.raises(ModelError, match="holds no tokenizer that loads") as caught:
        TextCodec(str(model))
    assert "\n" not in str(caught.value)


def test_damaged_generation_configuration_is_refused(model: Path) -> None:
    (model / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match="generation_config"):
        TextCodec(str(model))


def test_tokens_that_contain_the_stop_text_are_found_whatever_else_they_hold(bpe: Path) -> None:
    codec = TextCodec(str(bpe))
    vocabulary = Tokenizer.from_file(str(bpe / "tokenizer.json")).get_vocab()
    expected = {i for piece, i in vocabulary.items() if ";" in piece}
    result = codec.ids_containing(";")
    assert set(result) == expected
    assert len(result) == len(expected) > 2
    assert any(len(codec.decode([i])) > 1 for i in result)


def test_stop_text_that_no_token_holds_has_no_ids(bpe: Path) -> None:
    assert TextCodec(str(bpe)).ids_containing("</tool>") == ()
    assert CODEC.ids_containing(";") == tuple(CODEC.encode(";"))


def test_stop_text_may_be_a_special_token_that_does_not_end_the_answer(bpe: Path) -> None:
    codec = TextCodec(str(bpe))
    (end,) = codec.encode("<|end|>")
    assert end not in codec.eos_ids
    assert codec.decode([end]) == "<|end|>"
    assert codec.ids_containing("<|end|>") == (end,)


def test_no_stop_text_has_no_ids() -> None:
    assert CODEC.ids_containing("") == ()
