"""Labels as public tools and data sets export them: read right, or refused with what to rename."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from offline.data.checks.likeness import Likeness
from offline.data.dataset import Dataset
from offline.data.inventory import inventory_of
from offline.data.place_and_time import check_fixes, read_fix
from offline.data.sources.source import read_dataset
from offline.errors import DatasetError
from offline.splits.dependent_groups import components
from offline.splits.settings import SplitSettings

NOW = datetime(2026, 6, 1, tzinfo=UTC)

# Frames 1 and 2 are of one drive in each of them, 3 and 4 of another one.
BDD100K = """\
image,videoName,attributes.weather,attributes.scene,attributes.timeofday,timestamp,label
b1c66a42-1.jpg,b1c66a42-6f7d68ca,clear,city street,daytime,10000,1
b1c66a42-2.jpg,b1c66a42-6f7d68ca,undefined,city street,daytime,12000,0
cabc30fc-3.jpg,cabc30fc-e7726578,rainy,highway,night,10000,1
cabc30fc-4.jpg,cabc30fc-e7726578,undefined,highway,undefined,12000,0
"""
BDD100K_INFO = """\
image,label,latitude,longitude,timestamp
b1c66a42-1.jpg,1,40.7306,-73.9352,1503828163000
b1c66a42-2.jpg,0,40.7306,-73.9352,1503828164000
cabc30fc-3.jpg,1,37.7749,-122.4194,1505671234000
cabc30fc-4.jpg,0,37.7749,-122.4194,1505671235000
"""
MAPILLARY = """\
id,sequence_id,captured_at,compass_angle,is_pano,geometry.type,geometry.coordinates,image,label
498763468214161.0,s9dk2,1530000000000,112.4,False,Point,"[11.5755, 48.1374]",498763468214161.jpg,0
498763468214162.0,s9dk2,1530000002000,113.0,False,Point,"[11.5756, 48.1374]",498763468214162.jpg,1
498763468214163.0,nan,1530090000000,12.0,False,Point,"[0, 0]",498763468214163.jpg,0
498763468214164.0,None,1530190000000,12.0,False,Point,"[0, 0]",498763468214164.jpg,1
"""
MSLS = """\
,key,lon,lat,ca,captured_at,pano,label
0,a1,11.57,48.13,40.1,1530000000000,False,1
1,a2,11.57,48.13,40.1,1530000001000,False,0
"""
COCO = """\
image_id,file_name,height,width,license,category_id,category_name,bbox
1,a.jpg,720,1280,1,3,cone,"[1.0, 2.0, 3.0, 4.0]"
1,a.jpg,720,1280,1,5,barrier,"[9.0, 2.0, 3.0, 4.0]"
"""
COCO_BOXES = """\
image,label,bbox
a.jpg,1,"[1.0, 2.0, 3.0, 4.0]"
a.jpg,1,"[9.0, 2.0, 3.0, 4.0]"
b.jpg,0,[]
"""
ROBOFLOW = """\
filename, no-roadwork, roadwork
a_jpg.rf.0f1e.jpg, 0, 1
b_jpg.rf.77aa.jpg, 1, 0
"""
ROBOFLOW_CLASSES = """\
image, cones, barriers
a.jpg, 0, 1
b.jpg, 1, 0
"""
LABEL_STUDIO = """\
annotation_id,annotator,choice,created_at,id,image,lead_time,updated_at
7,1,roadwork,2024-05-01T10:59:59.123456Z,1,/data/upload/3/1f2e3d4c-a.jpg,4.288,2024-05-01T10:59:59.123456Z
8,1,clear,2024-05-01T11:00:59.123456Z,2,/data/upload/3/99aabbcc-b.jpg,2.1,2024-05-01T11:00:59.123456Z
"""
LABEL_STUDIO_RENAMED = LABEL_STUDIO.replace("choice", "label").replace("roadwork", "yes").replace("clear", "no")
CVAT = """\
"image_name","image_width","image_height","label","source"
"task 12/a.jpg","1280","720","roadwork","manual"
"task 12/b.jpg","1280","720","none","manual"
"""
CVAT_RENAMED = CVAT.replace("image_name", "image").replace("roadwork", "true").replace("none", "false")
OPEN_IMAGES = """\
ImageID,Source,LabelName,Confidence
a,verification,/m/0cmf2,1
b,verification,/m/0cmf2,0
"""
KAGGLE = """\
id,label
0001,1
0002,0
"""
KAGGLE_RENAMED = KAGGLE.replace("id,", "image,")
KAGGLE_CLASSES = """\
img_name,class
a.jpg,roadwork
b.jpg,other
"""
VIA = """\
filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes
a.jpg,1024,"{""roadwork"":""1""}",1,0,"{""name"":""rect"",""x"":1,""y"":2,""width"":3,""height"":4}","{""kind"":""cone""}"
b.jpg,1024,"{}",0,0,"{}","{}"
"""
EXCEL = """\
sep=;
Image;Label;Group ;Lat;Lon;Captured_At;Note
Images\\A.jpg;WAHR;1,0;48,1374;11,5755;20240501105959;"Regen; Nebel"
"""
EXCEL_ENGLISH = """\
Image;Label;Group ;Lat;Lon;Captured_At;Note
Images\\A.jpg;TRUE;1,0;48,1374;11,5755;20240501105959;"Regen; Nebel"
Images\\B.jpg;FALSE;1;48,1374;11,5755;20240501110003;
Images\\C.jpg;TRUE;#NV;48,2;11,5755;20240501110003;
;;;;;;
"""
PANDAS = """\
,Unnamed: 0,image,label,group,sequence
0,0,a.jpg,1.0,,3.0
1,1,b.jpg,0.0,,3
2,2,c.jpg,1.0,nan,
"""


@pytest.fixture
def data(tmp_path: Path) -> Callable[..., Path]:
    """Writes a data directory of empty pictures with these labels."""

    def write(labels: bytes | str, files: str) -> Path:
        for file in files.split(" | "):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(b"")
        (tmp_path / "labels.csv").write_bytes(labels if isinstance(labels, bytes) else labels.encode())
        return tmp_path

    return write


def groups(found: Dataset) -> list[list[str]]:
    """The ids that a split keeps together, by what the table says and not by looks."""
    check_fixes(found.rows, NOW)
    parts = components(found.rows, Likeness({}, None), SplitSettings())
    return [[row.image for row in part] for part in parts]


BDD_FILES = "b1c66a42-1.jpg | b1c66a42-2.jpg | cabc30fc-3.jpg | cabc30fc-4.jpg"
MAPILLARY_FILES = [f"49876346821416{n}.jpg" for n in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("labels", "files", "expected", "columns"),
    [
        (BDD100K, BDD_FILES, [BDD_FILES.split(" | ")[:2], BDD_FILES.split(" | ")[2:]], ["videoname"]),
        (BDD100K_INFO, BDD_FILES, [BDD_FILES.split(" | ")[:2], BDD_FILES.split(" | ")[2:]], []),
        (
            MAPILLARY,
            " | ".join(MAPILLARY_FILES),
            [MAPILLARY_FILES[:2], MAPILLARY_FILES[2:3], MAPILLARY_FILES[3:]],
            ["sequence_id"],
        ),
        (
            LABEL_STUDIO_RENAMED.replace("/data/upload/3/1f2e3d4c-", "").replace("/data/upload/3/99aabbcc-", ""),
            "a.jpg | b.jpg",
            [["a.jpg"], ["b.jpg"]],
            [],
        ),
        (CVAT_RENAMED, "task 12/a.jpg | task 12/b.jpg", [["task 12/a.jpg"], ["task 12/b.jpg"]], []),
        (
            EXCEL_ENGLISH.encode("utf-8-sig"),
            "images/a.jpg | images/b.jpg | images/c.jpg",
            [["images/a.jpg", "images/b.jpg"], ["images/c.jpg"]],
            ["group"],
        ),
        (
            EXCEL_ENGLISH.replace(";", "\t").encode("utf-16"),
            "images/a.jpg | images/b.jpg | images/c.jpg",
            [["images/a.jpg", "images/b.jpg"], ["images/c.jpg"]],
            ["group"],
        ),
        (PANDAS, "a.jpg | b.jpg | c.jpg", [["a.jpg", "b.jpg"], ["c.jpg"]], ["sequence"]),
    ],
    ids=["bdd100k", "bdd100k-info", "mapillary", "label-studio", "cvat", "excel", "excel-unicode", "pandas"],
)
def test_an_export_is_read_with_its_drives_together(
    data: Callable[..., Path], labels: bytes | str, files: str, expected: list[list[str]], columns: list[str]
) -> None:
    found = read_dataset(data(labels, files))
    assert groups(found) == expected
    inventory = inventory_of(found, SplitSettings().sequence_columns)
    assert [column.column for column in inventory.joining] == columns


@pytest.mark.parametrize(
    ("labels", "files", "message"),
    [
        (BDD100K.replace("image,", "name,"), "a.jpg", "column image missing; .*; rename 'name' to image"),
        (MSLS, "a1.jpg | a2.jpg", "column image missing; .*; rename 'key' to image"),
        (
            MSLS.replace("key", "image"),
            "q/a1.jpg | a2.jpg",
            r"image 'a1' is not in .*: there is q/a1\.jpg; write the path",
        ),
        (
            COCO,
            "a.jpg",
            "rename 'file_name' to image; rename 'category_name' to label, with 1 where|rename 'category_id'",
        ),
        (COCO_BOXES, "a.jpg | b.jpg", "'a.jpg' is listed twice, in lines 2 and 3; a picture is one row"),
        (ROBOFLOW, "a.jpg", "rename 'filename' to image; rename 'roadwork' to label$"),
        (ROBOFLOW_CLASSES, "a.jpg", "rename the one of 'cones', 'barriers' that says 1 where roadwork is"),
        (LABEL_STUDIO, "a.jpg", "column label missing; .*; rename 'choice' to label, with 1 where roadwork is"),
        (
            LABEL_STUDIO_RENAMED,
            "images/a.jpg | b.jpg",
            r"'/data/upload/3/1f2e3d4c-a\.jpg' must .*: there is images/a\.jpg",
        ),
        (CVAT, "a.jpg", "column image missing; .*; rename 'image_name' to image"),
        (
            CVAT.replace("_name", ""),
            "task 12/a.jpg | task 12/b.jpg",
            "label is 'roadwork', .*; the column holds none, roadwork",
        ),
        (OPEN_IMAGES, "a.jpg", "rename 'ImageID' to image; rename 'LabelName' to label, with 1 where"),
        (KAGGLE, "train/0001.jpg", "column image missing; it has id, label; rename 'id' to image"),
        (KAGGLE_RENAMED, "train/0001.jpg", r"image '0001' is not in .*: there is train/0001\.jpg; write the path"),
        (KAGGLE_CLASSES, "a.jpg", "rename 'img_name' to image; rename 'class' to label, with 1 where"),
        (VIA, "a.jpg", "rename 'filename' to image; rename '.*_attributes' to label, with 1 where"),
        (EXCEL, "images/a.jpg", "label is 'WAHR', expected 0 or 1"),
        (
            BDD100K_INFO.replace("1503828163000", "10000"),
            BDD_FILES,
            "the timestamp is '10000', expected .*, or rename the column if it does not say when the picture was",
        ),
        (BDD100K_INFO.replace("1503828163000", "1.50383E+12"), BDD_FILES, r"the timestamp is '1\.50383E\+12'"),
        (
            MAPILLARY.replace("s9dk2", "4.98763E+14"),
            " | ".join(MAPILLARY_FILES),
            "column sequence_id: the id '4.98763E.14' was rounded by a spreadsheet",
        ),
    ],
)
def test_an_export_that_is_not_clear_says_what_to_rename_or_mend(
    data: Callable[..., Path], labels: str, files: str, message: str
) -> None:
    root = data(labels, files)
    with pytest.raises(DatasetError, match=message) as error:
        groups(read_dataset(root))
    assert "\n" not in str(error.value)


def test_of_mapillary_the_place_is_read_though_the_longitude_is_first(data: Callable[..., Path]) -> None:
    first, *_, last = read_dataset(data(MAPILLARY, " | ".join(MAPILLARY_FILES))).rows
    fix = read_fix(first)
    assert fix is not None
    assert (fix.latitude, fix.longitude, fix.at) == (48.1374, 11.5755, 1530000000.0)
    # A receiver without a fix.
    assert read_fix(last) is None


def test_of_bdd100k_a_tag_that_is_undefined_is_no_stratum_of_its_own(data: Callable[..., Path]) -> None:
    rows = read_dataset(data(BDD100K, BDD_FILES)).rows
    assert [row.about("weather") for row in rows] == ["clear", None, "rainy", None]
