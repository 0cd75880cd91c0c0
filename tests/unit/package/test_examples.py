"""The example of a reward server answers as a run asks it."""

from __future__ import annotations

import threading

import requests

from examples import reward_server
from rftfm_ray.tasks.api import Problem
from rftfm_ray.tasks.remote_rewards import RemoteReward
from rftfm_ray.tasks.reward_functions import Graded, Row


def test_reward_server_gives_rewards_and_refuses_what_it_cannot_grade() -> None:
    with reward_server.serve(0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/score"
        problems = [Problem("a", "1+1=", "2", {"answer": "2"}), Problem("b", "1+2=", "3", {"answer": "3"})]
        rows = [Row(problems[0], " 2"), Row(problems[1], "4")]
        assert RemoteReward(url, 5.0)(rows) == [Graded(1.0, is_right=True), Graded(0.0, is_right=False)]
        assert requests.post(url, data=b"{}", timeout=5).status_code == 400
        server.shutdown()
