import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.generic.GenericRecordBuilder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringSerializer;

class Post {
    static final UUID NAMESPACE = UUID.fromString("caad481a-69a2-59e0-9004-8e048d6013ba");
    static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] arguments) throws Exception {
        String bootstrap = arguments[0], registry = arguments[1], topic = arguments[2];
        String text = Files.readString(Path.of(arguments[3])).strip();
        String tenant = "default", idempotencyKey = "order-17/capture", account = "users:cleo:wallet";
        Schema schema = new Schema.Parser().parse(text);
        GenericRecord intent = new GenericRecordBuilder(schema)
            .set("intent_id", intentId(tenant, idempotencyKey))
            .set("tenant", tenant)
            .set("idempotency_key", idempotencyKey)
            .set("type", symbol(schema.getField("type").schema(), "transfer"))
            .set("legs", List.of(leg(schema, account, "debit", 700), leg(schema, "external:bank", "credit", 700)))
            .set("reference", "order 17")
            .set("accepted_time", ChronoUnit.MICROS.between(Instant.EPOCH, Instant.now()))
            .build();
        ByteArrayOutputStream value = new ByteArrayOutputStream();
        DataOutputStream frame = new DataOutputStream(value);
        frame.writeByte(0);
        frame.writeInt(schemaId(registry, text));
        BinaryEncoder body = EncoderFactory.get().binaryEncoder(value, null);
        new GenericDatumWriter<GenericRecord>(schema).write(intent, body);
        body.flush();
        Map<String, Object> options = Map.of("bootstrap.servers", bootstrap, "acks", "all", "enable.idempotence", true);
        try (var producer = new KafkaProducer<>(options, new StringSerializer(), new ByteArraySerializer())) {
            // get() throws what was refused.
            producer.send(new ProducerRecord<>(topic, tenant + "/" + account, value.toByteArray())).get();
        }
    }

    static GenericRecord leg(Schema schema, String account, String direction, long amountMinor) {
        Schema leg = schema.getField("legs").schema().getElementType();
        return new GenericRecordBuilder(leg)
            .set("account", account)
            .set("direction", symbol(leg.getField("direction").schema(), direction))
            .set("amount_minor", amountMinor)
            .set("currency", "EUR")
            .build();
    }

    static GenericData.EnumSymbol symbol(Schema schema, String name) {
        return new GenericData.EnumSymbol(schema, name);
    }

    /** UUID version 5: the JDK has version 3 alone. */
    static String intentId(String tenant, String idempotencyKey) throws Exception {
        MessageDigest sha1 = MessageDigest.getInstance("SHA-1");
        sha1.update(ByteBuffer.allocate(16)
            .putLong(NAMESPACE.getMostSignificantBits()).putLong(NAMESPACE.getLeastSignificantBits()).array());
        ByteBuffer hash = ByteBuffer.wrap(sha1.digest((tenant + "\0" + idempotencyKey).getBytes(StandardCharsets.UTF_8)));
        long high = hash.getLong() & 0xffffffffffff0fffL | 0x5000L;
        long low = hash.getLong() & 0x3fffffffffffffffL | 0x8000000000000000L;
        return new UUID(high, low).toString();
    }

    /** Ask for the id of this very text; a schema that was not registered is an error, and is not registered here. */
    static int schemaId(String registry, String text) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(registry + "/subjects/payments.intents-value"))
            .header("Content-Type", "application/vnd.schemaregistry.v1+json")
            .POST(HttpRequest.BodyPublishers.ofString(JSON.writeValueAsString(Map.of("schema", text))))
            .build();
        HttpResponse<String> answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        if (answer.statusCode() != 200) {
            throw new IllegalStateException("The registry answered " + answer.statusCode() + ": " + answer.body());
        }
        return JSON.readTree(answer.body()).get("id").asInt();
    }
}
