import networkx
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.deduplication.components import write_roots

DOCUMENTS = 30
NODES = st.integers(0, DOCUMENTS - 1)
LINKS = st.lists(st.lists(st.tuples(NODES, NODES), max_size=20), max_size=4)


def roots_of(path, start, links, rows, documents=DOCUMENTS) -> list[int]:
    write_roots(path, start, documents, [np.array(some, np.int64).reshape(-1, 2) for some in links], rows)
    return np.load(path).tolist()


def expected(*links) -> list[int]:
    graph = networkx.Graph(link for some in links for link in some)
    graph.add_nodes_from(range(DOCUMENTS))
    smallest = {node: min(component) for component in networkx.connected_components(graph) for node in component}
    return [smallest[document] for document in range(DOCUMENTS)]


@given(LINKS, LINKS, st.integers(1, 40))
def test_roots_are_the_smallest_documents_of_components_also_when_gone_on_with(tmp_path_factory, first, more, rows):
    folder = tmp_path_factory.mktemp("roots")
    assert roots_of(folder / "first", None, first, rows) == expected(*first)
    assert roots_of(folder / "both", folder / "first", more, rows) == expected(*first, *more)


def test_long_chains_and_wide_stars_are_joined(tmp_path):
    count = 20_000
    chain = [(number, number + 1) for number in range(count - 1)]
    star = [(number, count - 1) for number in range(count - 1)]
    backwards = chain[::-1]
    for links in (chain, star, backwards):
        assert set(roots_of(tmp_path / "roots", None, [links], rows=count, documents=count)) == {0}
        assert set(roots_of(tmp_path / "roots", None, [links], rows=997, documents=count)) == {0}


def test_no_documents_have_no_roots(tmp_path):
    assert roots_of(tmp_path / "roots", None, [], 10, documents=0) == []
