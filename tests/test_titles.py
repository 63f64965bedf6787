"""Titles of items from the files of a data set: written as MovieTweetings and EB-NeRD have them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fp_tfrs.config import SourceConfig
from fp_tfrs.errors import InputError
from fp_tfrs.experiments.titles import TitlesPlan, read_titles

FILMS = """0004936::The Bank (1915)::Comedy|Short
0002844::Fantômas - À l'ombre de la guillotine (1913)::Crime|Drama
0006684:: The Fireman (1916) ::Short
0006684::Another name::Short
0005078::::Drama
torn::line
"""


def films_plan(file, item_id="film", title="title", separator="::"):
    names = ("film", "title", "genres")
    source = SourceConfig(format="csv", files=(file,), separator=separator, header=False, column_names=names)
    return TitlesPlan(source=source, item_id=item_id, title=title)


@pytest.fixture
def films(tmp_path, monkeypatch):
    (tmp_path / "movies.dat").write_text(FILMS, "utf-8")
    monkeypatch.setenv("FILMS_DIR", str(tmp_path))
    return "$FILMS_DIR/movies.dat"


def test_films_have_the_titles_of_their_file(films):
    assert read_titles(films_plan(films), ["0002844", "0006684", "0005078", "torn", "9"]) == {
        "0002844": "Fantômas - À l'ombre de la guillotine (1913)",
        "0006684": "The Fireman (1916)",
    }


def test_articles_have_numbers_as_ids_and_may_have_no_title(tmp_path):
    file = tmp_path / "articles.parquet"
    columns = {"article_id": pa.array([0, 9, 12], pa.int32()), "title": ["Nul", None, "Tolv"], "body": ["a", "b", "c"]}
    pq.write_table(pa.table(columns), file)
    source = SourceConfig(format="parquet", files=(str(file),))
    titles = read_titles(TitlesPlan(source=source, item_id="article_id", title="title"), ["0", "9", "12"])
    assert titles == {"0": "Nul", "12": "Tolv"}
    with pytest.raises(
        InputError, match=r"articles.parquet has no column 'headline'; choose one of article_id, title, body"
    ):
        read_titles(TitlesPlan(source=source, item_id="article_id", title="headline"), ["9"])


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([7, 9], pa.float64()),
        pa.array([b"7", b"9"]),
        pa.array([" 7", "9 "]),
        pa.array(["7", "9"]).dictionary_encode(),
    ],
)
def test_ids_are_read_as_those_of_a_log(tmp_path, ids):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"item": ids, "title": pa.array([b"Syv", b"Ni"])}), file)
    plan = TitlesPlan(source=SourceConfig(format="parquet", files=(str(file),)), item_id="item", title="title")
    assert read_titles(plan, ["7", "8"]) == {"7": "Syv"}


def test_a_missing_file_or_column_is_named(films, tmp_path):
    with pytest.raises(InputError, match=r"titles: .*nowhere.dat; check the path"):
        read_titles(films_plan(str(tmp_path / "nowhere.dat")), ["0002844"])
    with pytest.raises(InputError, match=r"movies.dat has no column 'name'; choose one of film, title, genres"):
        read_titles(films_plan(films, title="name"), ["0002844"])


def test_a_file_of_other_items_or_another_form_is_refused(films):
    with pytest.raises(InputError, match=r"none of 1 items has one in .*movies.dat.*column 'genres' has the ids"):
        read_titles(films_plan(films, item_id="genres"), ["0002844"])
    with pytest.raises(InputError, match=r"none of 1 items .*line 1 is not 3 fields.*check titles.source"):
        read_titles(films_plan(films, separator="\t"), ["0002844"])
