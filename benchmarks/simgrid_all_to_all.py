"""An all-to-all in SimGrid, the independent simulator: run by the system's Python (Debian package python3-simgrid).

Reads a JSON file with ``dies_per_node``, ``die_bytes_per_s``, ``package_bytes_per_s``, ``latency_s`` and ``flows``
(rows of source, destination, bytes); prints a JSON object with ``makespan_s``, ``cpu_s`` and, with ``--each``,
``finish_s`` of every flow. Sprayed links stand as one link each, which is exact when the spray is even.
"""

import json
import sys
import time

from simgrid import Actor, Comm, Engine, LinkInRoute, NetZone


def main() -> None:
    with open(sys.argv[1]) as file:
        case = json.load(file)
    each = "--each" in sys.argv
    begin = time.process_time()
    engine = Engine(
        [
            "simgrid",
            "--log=root.threshold:error",
            "--cfg=network/model:CM02",
            "--cfg=network/crosstraffic:0",
            "--cfg=network/TCP-gamma:1e20",
        ]
    )
    flows, per_node = case["flows"], case["dies_per_node"]
    count = 1 + max(max(f[0], f[1]) for f in flows)
    zone = NetZone.create_full_zone("fabric")
    hosts = [zone.create_host(f"d{i}", 1e9) for i in range(count)]

    def link(name: str, rate: float, latency: float):
        return LinkInRoute(zone.create_link(name, rate).set_latency(latency).seal())

    late = case["latency_s"]
    up = [link(f"up{i}", case["die_bytes_per_s"], late) for i in range(count)]
    down = [link(f"down{i}", case["die_bytes_per_s"], 0.0) for i in range(count)]
    nodes = -(-count // per_node)
    node_up = [link(f"nodeup{i}", per_node * case["die_bytes_per_s"], 0.0) for i in range(nodes)]
    node_down = [link(f"nodedown{i}", per_node * case["die_bytes_per_s"], 0.0) for i in range(nodes)]
    for a, b, _ in flows:
        if a // 2 == b // 2:
            path = [link(f"sio{a}", case["package_bytes_per_s"], late)]
        elif a // per_node == b // per_node:
            path = [up[a], down[b]]
        else:
            path = [up[a], node_up[a // per_node], node_down[b // per_node], down[b]]
        zone.add_route(hosts[a].netpoint, hosts[b].netpoint, None, None, path, False)
    zone.seal()
    result: dict = {}

    def driver() -> None:
        comms = [Comm.sendto_async(hosts[a], hosts[b], int(size)) for a, b, size in flows]
        if each:
            finish = [0.0] * len(comms)
            waiting = list(range(len(comms)))
            while waiting:
                at = Comm.wait_any([comms[i] for i in waiting])
                finish[waiting.pop(at)] = engine.clock
            result["finish_s"] = finish
        else:
            Comm.wait_all(comms)
        result["makespan_s"] = engine.clock

    Actor.create("driver", hosts[0], driver)
    engine.run()
    result["cpu_s"] = time.process_time() - begin
    print(json.dumps(result))


main()
