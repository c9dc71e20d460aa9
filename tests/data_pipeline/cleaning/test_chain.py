"""The stages together, as the options of `cleaning=` set them."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from data_pipeline.cleaning.chain import CleaningConfig, build_chain, check_cleaning
from data_pipeline.cleaning.decontamination import DecontaminationConfig
from data_pipeline.cleaning.quality import QualityConfig
from data_pipeline.cleaning.repair import RepairConfig
from data_pipeline.cleaning.stage import Dropped
from data_pipeline.foundation.configuration import configuration_folder
from data_pipeline.foundation.errors import UserError
from data_pipeline.readers.document import Document
from data_pipeline.schemas import register_schemas

PAGE = """<title>Harbour bridge</title><body><nav>Menu</nav><p>The bridge across the harbour that a barge had damaged \
carries lorries again, and the office expects some four thousand of them a day. It wasnâ€™t cheap: two girders had to \
be replaced, and the locks had to be aligned with great care by engineers who worked through the weekend.</p>
<p>Ask ines@port.example.com about it, or call (415) 555-2671.</p></body>"""
TEXT = """Harbour bridge

The bridge across the harbour that a barge had damaged carries lorries again, and the office expects some four \
thousand of them a day. It wasn’t cheap: two girders had to be replaced, and the locks had to be aligned with great \
care by engineers who worked through the weekend.

Ask [EMAIL] about it, or call [PHONE]."""


def composed(*overrides: str) -> CleaningConfig:
    register_schemas()
    with initialize_config_dir(config_dir=str(configuration_folder()), version_base="1.3"):
        config = OmegaConf.to_object(compose(overrides=list(overrides)).cleaning)
    assert isinstance(config, CleaningConfig)
    return config


def cleaned(config: CleaningConfig, document: Document) -> Document | str:
    for _, stage in build_chain(config):
        (result,) = stage.apply_all([document])
        if isinstance(result, Dropped):
            return result.reason
        document = result.document
    return document


def test_options_enable_stages_in_their_order():
    names = {
        option: [name for name, _ in build_chain(composed(f"+cleaning={option}"))]
        for option in ("none", "standard", "web")
    }
    assert names["none"] == ["extraction"]
    assert names["standard"] == names["web"] == ["extraction", "repair", "language", "quality", "privacy"]


def test_decontamination_comes_last_where_there_are_sets(tmp_path):
    (tmp_path / "set.txt").write_text(TEXT)
    config = composed("+cleaning=web")
    config.decontamination.sets = {"bridges": [str(tmp_path / "set.txt")]}
    check_cleaning(config)
    assert [name for name, _ in build_chain(config)][-1] == "decontamination"
    assert cleaned(config, Document(PAGE, "web", "page", "html")) == "contaminated_bridges"


def test_the_yaml_says_what_the_code_does_by_default():
    composed_stages, stages = vars(composed("+cleaning=none")), vars(CleaningConfig())
    for name in ("extraction", "repair", "language", "quality", "privacy", "decontamination"):
        assert composed_stages[name] == stages[name]


def test_web_has_the_published_thresholds_and_standard_lenient_ones():
    web, standard = composed("+cleaning=web").quality, composed("+cleaning=standard").quality
    assert web == QualityConfig(enabled=True)
    assert composed("+cleaning=standard", "cleaning/quality=web").quality == web
    for key, published in vars(web).items():
        lenient = getattr(standard, key)
        if published is not None and lenient is not None and key.startswith("maximum"):
            assert lenient > published
        if published is not None and lenient is not None and key.startswith("minimum"):
            assert lenient < published


def test_one_key_of_a_stage_can_be_overridden():
    config = composed(
        "+cleaning=standard", "cleaning.quality.minimum_words=20", "cleaning.privacy.placeholders.phone=null"
    )
    assert config.quality.minimum_words == 20 and config.privacy.placeholders.phone is None


@pytest.mark.parametrize("option", ["standard", "web"])
def test_a_page_comes_out_as_clean_text(option):
    config = composed(f"+cleaning={option}")
    check_cleaning(config)
    page = Document(PAGE, "web", "page", markup="html")
    assert cleaned(config, page) == Document(TEXT, "web", "page", markup="text", language="en")


def test_without_cleaning_only_html_changes():
    config = composed("+cleaning=none")
    document = Document("any\r\ntext of a@b.com", "source", "key")
    assert cleaned(config, document) is document


def test_mistakes_of_every_stage_are_refused():
    for config, message in (
        (CleaningConfig(repair=RepairConfig(maximum_control_characters=-1)), r"cleaning\.repair\.maximum_control"),
        (CleaningConfig(quality=QualityConfig(short_line=-1)), r"cleaning\.quality\.short_line"),
        (CleaningConfig(decontamination=DecontaminationConfig(ngram=0)), r"cleaning\.decontamination\.ngram"),
    ):
        with pytest.raises(UserError, match=message):
            check_cleaning(config)
