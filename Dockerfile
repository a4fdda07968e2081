# Both services and the worker in one image: `only-post`, `only-post worker`, `token-svc`.
FROM python:3.13-slim
ENV PYTHONUNBUFFERED=1 APP_ENV=production STATE_DIR=/data
# tini reaps what tasks leave behind, and passes signals on.
RUN apt-get update && apt-get install --yes --no-install-recommends tini && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY pyproject.toml requirements.txt README.md LICENSE ./
COPY shared shared
COPY only_post_svc only_post_svc
COPY token_svc token_svc
RUN pip install --no-cache-dir . && useradd --system --uid 10001 only-post && install -d -o only-post -m 700 /data
USER only-post
VOLUME /data
EXPOSE 9003 9004
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["only-post", "probe"]
ENTRYPOINT ["tini", "--"]
CMD ["only-post"]
