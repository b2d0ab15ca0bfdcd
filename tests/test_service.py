"""The HTTP service: its answers are the library's, and mistakes are explained."""

import base64
import concurrent.futures
import json
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from products import jpeg, tokenizer

from k3m_jax.applications.batching import Batcher, BusyError
from k3m_jax.applications.load import measure
from k3m_jax.applications.neighbours import Items, unit
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.serving.product_model import ProductModel
from k3m_jax.settings import UserError
from tests.exported import tiny_model, tiny_params

uvicorn = pytest.importorskip("uvicorn", reason="pip install -r requirements-serve.txt")
service = pytest.importorskip("k3m_jax.applications.service")

VALUES = ValueVocabulary.merge(
    [{"colour": {"red": 3, "blue": 2, "green": 1}, "fibre": {"wool": 1}}]
)
PRODUCT = {"title": "red thing", "triples": [["fibre", "wool"]]}


@pytest.fixture(scope="module")
def model():
    network = tiny_model()
    return ProductModel(network, tiny_params(network), tokenizer(), values=VALUES)


@pytest.fixture(scope="module")
def address(model):
    records = [model.record(f"id{n}", title=f"thing of {n}") for n in range(20)]
    items = Items([r.id for r in records], [r.id for r in records], unit(model.embed(records)))
    limits = service.Limits(products=8, bytes=50_000)
    app = service.application(service.Service(model, items, limits))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def ask(address, path, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(f"{address}/{path}", data) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_answers_are_those_of_the_library(address, model):
    picture = jpeg(3, 30)
    products = [
        PRODUCT | {"picture": base64.b64encode(picture).decode()},
        {"title": "blue thing"},
        {},
    ]
    records = [
        model.record("0", **PRODUCT, picture=picture),
        model.record("1", title="blue thing"),
        model.record("2"),
    ]
    status, answer = ask(address, "embed", {"products": products})
    assert status == 200
    np.testing.assert_allclose(answer["vectors"], model.embed(records), atol=1e-5)
    _, answer = ask(address, "complete", {"products": products, "property": "Colour", "k": 2})
    for record, found in zip(records, answer["values"], strict=True):
        expected = model.complete(record, "colour", 2)
        assert [value for value, _ in found] == [value for value, _ in expected]
    _, answer = ask(address, "neighbours", {"products": [{"title": "thing of 7"}], "k": 3})
    (found,) = answer["neighbours"]
    assert found[0][0] == "id7"
    assert found[0][1] == pytest.approx(1, abs=1e-5)
    assert len(found) == 3
    with urllib.request.urlopen(f"{address}/health") as health:
        assert json.load(health)["items"] == 20


def test_clients_at_the_same_time_get_their_own_answers(address, model):
    titles = [f"thing of {n}" for n in range(40)]
    expected = model.embed(model.record(title, title=title) for title in titles)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        bodies = ({"products": [{"title": title}]} for title in titles)
        found = list(pool.map(lambda body: ask(address, "embed", body)[1]["vectors"][0], bodies))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("embed", b"{", 400, "no JSON"),
        ("embed", b"[]", 400, "not an object"),
        ("embed", {}, 400, "products is missing"),
        ("embed", {"products": [PRODUCT, 3]}, 400, r"products[1] is no object"),
        ("embed", {"products": [{"titel": "x"}]}, 400, "unknown key 'titel'"),
        ("embed", {"products": [{"self": "x"}]}, 400, "products[0]"),
        ("embed", {"products": [{"picture": "%"}]}, 400, "products[0]: picture is no base64"),
        ("embed", {"products": [{}] * 9}, 413, "9 products in a request; at most 8"),
        ("embed", {"products": [{"title": "x" * 60_000}]}, 413, "more than 50000 bytes"),
        ("complete", {"products": [{}]}, 400, "property is missing"),
        ("complete", {"products": [{}], "property": "size"}, 400, "no value of 'size'"),
        ("complete", {"products": [{}], "property": "colour", "k": 0}, 400, "k is 0"),
        ("classify", {"products": [{}]}, 400, "head of the task classification"),
    ],
)
def test_mistakes_are_explained(address, path, body, status, reason):
    found, answer = ask(address, path, body)
    assert found == status
    assert reason in answer["error"]


def test_a_batch_is_whole_requests_and_one_that_fails_fails_alone():
    calls, go = [], threading.Event()

    def embed(items):
        go.wait()
        calls.append(list(items))
        if "bad" in items:
            raise ValueError("bad")
        return np.array([len(item) for item in items])

    batcher = Batcher(embed, most=4, waiting=6)
    first = batcher.submit(["a"])
    while batcher._items:  # until the thread has taken it
        time.sleep(0.001)
    rest = [batcher.submit(items) for items in (["bb", "ccc"], ["bad"], ["dddd"])]
    with pytest.raises(BusyError):
        batcher.submit(["e", "f", "g"])
    go.set()
    assert first.result().tolist() == [1]
    assert rest[0].result().tolist() == [2, 3]
    assert rest[2].result().tolist() == [4]
    with pytest.raises(ValueError, match="bad"):
        rest[1].result()
    assert calls[:2] == [["a"], ["bb", "ccc", "bad", "dddd"]]
    batcher.close()
    with pytest.raises(BusyError):
        batcher.submit(["a"])


def test_latency_and_throughput_are_measured(address):
    body = {"products": [PRODUCT] * 2}
    seen = measure(f"{address}/embed", [body], clients=2, requests=6)
    assert (len(seen.seconds), seen.failed) == (6, 0)
    assert "6 requests of 2 products" in str(seen)
    bad = measure(f"{address}/embed", [{"products": [3]}], clients=1, requests=2)
    assert (len(bad.seconds), bad.failed) == (0, 2)
    with pytest.raises(UserError, match="does not answer"):
        measure("http://127.0.0.1:9/embed", [body], clients=1, requests=1)
