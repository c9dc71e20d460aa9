"""The stages of cleaning in the order they run in, and their settings together."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_pipeline.cleaning.decontamination import Decontamination, DecontaminationConfig, check_decontamination
from data_pipeline.cleaning.extraction import Extraction, ExtractionConfig, check_extraction
from data_pipeline.cleaning.language import Language, LanguageConfig, check_language
from data_pipeline.cleaning.privacy import Privacy, PrivacyConfig
from data_pipeline.cleaning.quality import Quality, QualityConfig, check_quality
from data_pipeline.cleaning.repair import Repair, RepairConfig, check_repair
from data_pipeline.cleaning.stage import Stage
from data_pipeline.deduplication.signatures import DuplicatesConfig


@dataclass
class CleaningConfig:
    """Settings of cleaning, in the order of the stages.

    Text is taken out of pages and repaired before anything looks at it; what the rules drop needs no masking; and what
    is sought last, the text of evaluation sets, is so rare that the order makes no difference to speed.

    Args:
        extraction: HTML to text.
        repair: of encodings and characters.
        language: identified, and chosen by.
        quality: rules for texts.
        privacy: masking of what is private.
        decontamination: leaving out what is in evaluation sets; needs `sets`, and does nothing without.
        duplicates: leaving out texts that stand, or nearly stand, in earlier documents; after all else.
    """

    extraction: ExtractionConfig = field(default_factory=ExtractionConfig)
    repair: RepairConfig = field(default_factory=RepairConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    duplicates: DuplicatesConfig = field(default_factory=DuplicatesConfig)


def build_chain(config: CleaningConfig) -> list[tuple[str, Stage]]:
    """Return the enabled stages by name, in order. Decontamination reads its sets here, once per process.

    Raises:
        UserError: a set's file can't be read.
    """
    chain: list[tuple[str, Stage]] = []
    if config.extraction.enabled:
        chain.append(("extraction", Extraction(config.extraction)))
    if config.repair.enabled:
        chain.append(("repair", Repair(config.repair)))
    if config.language.enabled:
        chain.append(("language", Language(config.language)))
    if config.quality.enabled:
        chain.append(("quality", Quality(config.quality)))
    if config.privacy.enabled:
        chain.append(("privacy", Privacy(config.privacy)))
    if config.decontamination.enabled and config.decontamination.sets:
        chain.append(("decontamination", Decontamination(config.decontamination)))
    return chain


def check_cleaning(config: CleaningConfig) -> None:
    """Refuse settings that can't be meant, before anything is read. Raises UserError."""
    check_extraction(config.extraction)
    check_repair(config.repair)
    check_language(config.language)
    check_quality(config.quality)
    check_decontamination(config.decontamination)
    config.duplicates.check()
