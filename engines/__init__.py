"""From weights to prebuilt engine sets: read, export, build, verify, run. It imports neither jobs nor worker.

Each layer imports only from those above it in this list (within a layer, files import each other without circles):

    errors, spec, noise_schedule        data; no torch
    files, manifest                     a set's files; no torch
    device, cuda_graph                  devices, and functions captured as CUDA graphs
    model/                              weights -> torch modules, constants, ONNX
    backends/                           recipe and protocol; one folder a backend; the registry imports them all
    build/                              a request -> a finished set
    engine_set                          a finished set -> callables
    check/                              verify, score, bench: sets against torch, each other and the clock
    console, cli                        the command line

build and engine_set do not import each other.
"""
