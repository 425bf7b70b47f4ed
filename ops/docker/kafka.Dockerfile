# Kafka with Prometheus' JMX exporter, of the release that the embedded broker has too (ops/embedded/kafka_exporter).
FROM maven:3.9.11-eclipse-temurin-21 AS agent
WORKDIR /build
COPY ops/embedded/kafka_exporter/pom.xml ./
RUN mvn --batch-mode --no-transfer-progress package && mv target/jars/jmx_prometheus_javaagent-*.jar agent.jar

FROM apache/kafka:4.3.1
COPY --from=agent /build/agent.jar /opt/jmx-exporter/agent.jar
# The base image's own user, appuser, said again.
USER 1000:1000
