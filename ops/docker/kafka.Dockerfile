# Kafka with Prometheus' JMX exporter, of the release that the embedded broker has too (ops/embedded/kafka_exporter).
FROM maven:3.9.11-eclipse-temurin-21@sha256:6fdc855a6ed81d288ca7ca37ac6ff5e9308b612485c0801d70b25a858c83d237 AS agent
WORKDIR /build
COPY ops/embedded/kafka_exporter/pom.xml ./
RUN mvn --batch-mode --no-transfer-progress package && mv target/jars/jmx_prometheus_javaagent-*.jar agent.jar

FROM apache/kafka:4.3.1@sha256:77e3df9054047a88b520d0cc46e16696d3b22022e1d580aeccd2632df6532837
COPY --from=agent /build/agent.jar /opt/jmx-exporter/agent.jar
# The base image's own user, appuser, said again.
USER 1000:1000
