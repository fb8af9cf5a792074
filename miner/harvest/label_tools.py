"""What labels are given with: FiftyOne, Label Studio, CVAT, or a plain list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Tool = Literal["fiftyone", "labelstudio", "cvat", "folder"]
CLASSES = ("no roadwork", "roadwork")
FILES: Mapping[Tool, str] = {
    "fiftyone": "labels.json",
    "labelstudio": "tasks.json",
    "cvat": "annotations.xml",
    "folder": "labels.csv",
}
PICTURES: Mapping[Tool, str] = {"fiftyone": "data", "labelstudio": "images", "cvat": "images", "folder": "images"}
# Of a project of Label Studio: one choice for each picture, by a click or the keys 1 and 2.
LABELLING_CONFIG = """<View>
  <Header value="Is roadwork in this picture?"/>
  <Choices name="label" toName="image" choice="single" showInLine="true" required="true">
    <Choice value="roadwork" hotkey="1"/>
    <Choice value="no roadwork" hotkey="2"/>
  </Choices>
  <Image name="image" value="$image" zoom="true"/>
</View>
"""
LABELLING_FILE = "labelling_config.xml"
