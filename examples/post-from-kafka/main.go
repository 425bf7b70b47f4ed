package main

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/kgo"
)

const namespace = "caad481a69a259e090048e048d6013ba"

type Leg struct {
	Account     string `avro:"account"`
	Direction   string `avro:"direction"`
	AmountMinor int64  `avro:"amount_minor"`
	Currency    string `avro:"currency"`
}

type Intent struct {
	IntentID       string            `avro:"intent_id"`
	Tenant         string            `avro:"tenant"`
	IdempotencyKey string            `avro:"idempotency_key"`
	Type           string            `avro:"type"`
	Legs           []Leg             `avro:"legs"`
	Reverses       *string           `avro:"reverses"`
	ValueTime      *time.Time        `avro:"value_time"`
	Reference      *string           `avro:"reference"`
	Metadata       map[string]string `avro:"metadata"`
	AcceptedTime   time.Time         `avro:"accepted_time"`
}

func main() {
	if err := post(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		log.Fatal(err)
	}
}

func post(bootstrap, registry, topic, schemaFile string) error {
	file, err := os.ReadFile(schemaFile)
	if err != nil {
		return err
	}
	text := strings.TrimSpace(string(file))
	schema, err := avro.Parse(text)
	if err != nil {
		return err
	}
	id, err := schemaID(registry, text)
	if err != nil {
		return err
	}
	tenant, idempotencyKey, account, reference := "default", "order-17/capture", "users:cleo:wallet", "order 17"
	body, err := avro.Marshal(schema, Intent{
		IntentID:       intentID(tenant, idempotencyKey),
		Tenant:         tenant,
		IdempotencyKey: idempotencyKey,
		Type:           "transfer",
		Legs:           []Leg{{account, "debit", 700, "EUR"}, {"external:bank", "credit", 700, "EUR"}},
		Reference:      &reference,
		Metadata:       map[string]string{},
		AcceptedTime:   time.Now(),
	})
	if err != nil {
		return err
	}
	value := append(binary.BigEndian.AppendUint32([]byte{0}, id), body...)
	// By default the client waits for all replicas, is idempotent, and partitions keys as Java does.
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap))
	if err != nil {
		return err
	}
	defer client.Close()
	record := &kgo.Record{Topic: topic, Key: []byte(tenant + "/" + account), Value: value}
	return client.ProduceSync(context.Background(), record).FirstErr()
}

// intentID makes a UUID of version 5.
func intentID(tenant, idempotencyKey string) string {
	space, _ := hex.DecodeString(namespace)
	hash := sha1.Sum(append(space, tenant+"\x00"+idempotencyKey...))
	id := hash[:16]
	id[6] = id[6]&0x0f | 0x50
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// schemaID asks for the id of this very text; a schema that was not registered is an error.
func schemaID(registry, text string) (uint32, error) {
	question, err := json.Marshal(map[string]string{"schema": text})
	if err != nil {
		return 0, err
	}
	url := registry + "/subjects/payments.intents-value"
	answer, err := http.Post(url, "application/vnd.schemaregistry.v1+json", bytes.NewReader(question))
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	told, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	if answer.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("the registry answered %s: %s", answer.Status, told)
	}
	var found struct {
		ID uint32 `json:"id"`
	}
	err = json.Unmarshal(told, &found)
	return found.ID, err
}
