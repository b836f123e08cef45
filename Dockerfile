# Atomstream on the CPU: one image for `serve`, `overlay`, the simulated `camera` and, with a folder on /data, `record`.
#   docker build -t atomstream .
#   docker run --rm -p 127.0.0.1:5556:5556 atomstream serve --input tcp://CAMERA:5555 --output tcp://0.0.0.0:5556
# deploy/compose.yaml runs all of it with Prometheus and Grafana.

FROM python:3.12-slim AS build
WORKDIR /source
RUN python -m venv /opt/atomstream
ENV PATH=/opt/atomstream/bin:$PATH
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY engine engine
COPY stream stream
COPY training training
# With what DECTRIS detectors and compressed frames need, and the recorder; readers of vendors' files, under the GPL, not.
RUN pip install --no-cache-dir --constraint constraints.txt '.[dectris,record]'

FROM python:3.12-slim
COPY --from=build /opt/atomstream /opt/atomstream
ENV PATH=/opt/atomstream/bin:$PATH PYTHONUNBUFFERED=1
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin atomstream
USER 10001
WORKDIR /data
# Results, metrics, overlay page. Inside the container nothing listens beyond loopback unless its options say so.
EXPOSE 5556 9464 8080
# Healthy: the metrics of `serve` answer. The overlay has a check of its own in deploy/compose.yaml.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9464/metrics', timeout=4)"]
ENTRYPOINT ["atomstream"]
CMD ["serve", "--output", "tcp://0.0.0.0:5556", "--metrics-host", "0.0.0.0"]
