# A model served on plain CPUs, by a user without rights.
#
#     docker build --tag reslab .
#     docker run --rm --publish 127.0.0.1:8000:8000 --read-only --tmpfs /tmp \
#       --volume "$PWD/runs/photos-photos-1/model.safetensors:/model.safetensors:ro" reslab --open
#
# Inside, the server listens on all of the container's addresses, so it has to be told who may ask:
# `--open` where the port is published to this machine alone, as above; elsewhere
#
#     docker run --rm --publish 8000:8000 --read-only --tmpfs /tmp \
#       --volume "$PWD/model.safetensors:/model.safetensors:ro" \
#       --volume "$PWD/token:/run/secrets/token:ro" \
#       reslab --token-file /run/secrets/token --allow-host pictures.example.org
#
# Without either it says so and ends with status 2. --allow-host names what clients call the server
# by: a name, or the address of the machine around the container. SIGTERM, which `docker stop`
# sends, lets it answer what it has accepted: give it as long, `docker stop --time 30`.
FROM python:3.13-slim AS build
WORKDIR /src
# The wheels of PyTorch's own index for CPUs carry no CUDA: 0.2 GB in place of 3.
RUN python -m venv /opt/reslab \
  && /opt/reslab/bin/pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu \
    "torch>=2.9,<3" "torchvision>=0.24,<1"
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN /opt/reslab/bin/pip install --no-cache-dir ".[serve]"

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin reslab
COPY --from=build /opt/reslab /opt/reslab
ENV PATH=/opt/reslab/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RESLAB_CACHE=/tmp/reslab \
    MPLCONFIGDIR=/tmp/matplotlib
USER 10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["reslab", "serve", "/model.safetensors", "--host", "0.0.0.0", "--port", "8000"]
