# The server with the embedded model. Build: docker build -t echo-server .
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY echo_core echo_core
COPY integrations integrations
COPY constraints.txt .
# Options of pip for torch alone, such as the index of its CPU wheels, which are smaller; without: the wheel with CUDA,
# for docker run --gpus all
ARG TORCH_OPTIONS=""
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir ${TORCH_OPTIONS} -c constraints.txt torch \
 && /venv/bin/pip install --no-cache-dir -c constraints.txt '.[server,chroma,gguf]'

FROM python:3.12-slim
COPY --from=build /venv /venv
# Nobody in particular, who may write an index and the models that were downloaded
RUN useradd --create-home echo && mkdir /index && chown echo /index
USER echo
WORKDIR /home/echo
ENV PATH=/venv/bin:$PATH HF_HOME=/home/echo/models PYTHONUNBUFFERED=1
EXPOSE 8080
HEALTHCHECK --start-period=120s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health')"]
# exec form: SIGTERM reaches the server, which answers what is under way. Set ECHO_SERVER_API_KEY.
ENTRYPOINT ["echo-server", "--host", "0.0.0.0"]
