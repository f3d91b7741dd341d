"""From layouts to scores: who matches whom, F1 by class and scene, and the means over scenes."""

from runtime.evaluation.categories import LAYOUT_CLASSES, OBJECT_CLASSES, read_mapping, read_scene_ids
from runtime.evaluation.folders import score_folders
from runtime.evaluation.score import THRESHOLDS, ClassScore, Count, SceneScore, Score, count_classes, score_scene
from runtime.evaluation.tables import to_json, to_text

__all__ = [
    "LAYOUT_CLASSES",
    "OBJECT_CLASSES",
    "THRESHOLDS",
    "ClassScore",
    "Count",
    "SceneScore",
    "Score",
    "count_classes",
    "read_mapping",
    "read_scene_ids",
    "score_folders",
    "score_scene",
    "to_json",
    "to_text",
]
