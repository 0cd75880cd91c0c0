"""The configuration of a run: its tree with all defaults, and how it is read. Checked before any actor starts."""

from rftfm_ray.config.background import BackgroundConfig
from rftfm_ray.config.changes import CHANGEABLE, MadeChange, made_changes
from rftfm_ray.config.comparing import KeyDifference, config_differences, past_differences
from rftfm_ray.config.data import DataConfig, EvalConfig, RewardConfig
from rftfm_ray.config.guard import ChannelsConfig, GuardConfig
from rftfm_ray.config.loggers import LoggingConfig
from rftfm_ray.config.preflight import PreflightConfig, PreflightMode
from rftfm_ray.config.reading import known_keys, load_config, parse_config
from rftfm_ray.config.sections import (
    BUILTIN_MODEL,
    AlgorithmConfig,
    CheckpointConfig,
    CriticConfig,
    GateConfig,
    LearnerConfig,
    ModelConfig,
    PlacementConfig,
    ProbeConfig,
    RecordsConfig,
    ReportConfig,
    RolloutConfig,
    Section,
    SnapshotConfig,
    SyncConfig,
    TaskConfig,
    TextPrivacy,
)
from rftfm_ray.config.tools import ToolsConfig
from rftfm_ray.config.tree import RunConfig

__all__ = [
    "BUILTIN_MODEL",
    "CHANGEABLE",
    "AlgorithmConfig",
    "BackgroundConfig",
    "ChannelsConfig",
    "CheckpointConfig",
    "CriticConfig",
    "DataConfig",
    "EvalConfig",
    "GateConfig",
    "GuardConfig",
    "KeyDifference",
    "LearnerConfig",
    "LoggingConfig",
    "MadeChange",
    "ModelConfig",
    "PlacementConfig",
    "PreflightConfig",
    "PreflightMode",
    "ProbeConfig",
    "RecordsConfig",
    "ReportConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "Section",
    "SnapshotConfig",
    "SyncConfig",
    "TaskConfig",
    "TextPrivacy",
    "ToolsConfig",
    "config_differences",
    "known_keys",
    "load_config",
    "made_changes",
    "parse_config",
    "past_differences",
]
