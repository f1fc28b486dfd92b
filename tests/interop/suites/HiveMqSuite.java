import com.hivemq.client.mqtt.MqttClientState;
import com.hivemq.client.mqtt.MqttGlobalPublishFilter;
import com.hivemq.client.mqtt.datatypes.MqttQos;
import com.hivemq.client.mqtt.mqtt3.Mqtt3BlockingClient;
import com.hivemq.client.mqtt.mqtt3.Mqtt3Client;
import com.hivemq.client.mqtt.mqtt3.message.publish.Mqtt3Publish;
import com.hivemq.client.mqtt.mqtt5.Mqtt5BlockingClient;
import com.hivemq.client.mqtt.mqtt5.Mqtt5BlockingClient.Mqtt5Publishes;
import com.hivemq.client.mqtt.mqtt5.Mqtt5Client;
import com.hivemq.client.mqtt.mqtt5.Mqtt5ClientBuilder;
import com.hivemq.client.mqtt.mqtt5.exceptions.Mqtt5DisconnectException;
import com.hivemq.client.mqtt.mqtt5.exceptions.Mqtt5SubAckException;
import com.hivemq.client.mqtt.mqtt5.message.connect.connack.Mqtt5ConnAck;
import com.hivemq.client.mqtt.mqtt5.message.disconnect.Mqtt5DisconnectReasonCode;
import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5PayloadFormatIndicator;
import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5Publish;
import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5PublishResult;
import com.hivemq.client.mqtt.mqtt5.message.publish.puback.Mqtt5PubAckReasonCode;
import com.hivemq.client.mqtt.mqtt5.message.subscribe.Mqtt5RetainHandling;
import com.hivemq.client.mqtt.mqtt5.message.subscribe.suback.Mqtt5SubAckReasonCode;
import com.hivemq.client.mqtt.mqtt5.message.unsubscribe.unsuback.Mqtt5UnsubAckReasonCode;
import io.reactivex.Flowable;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BooleanSupplier;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/**
 * What an application of the HiveMQ client relies on, of both versions of MQTT: the client publishes no tests
 * of its own. Prints a PASS or a FAIL line for each case.
 */
public class HiveMqSuite {
    static final int WAIT_S = 10;
    /** Nothing may come meanwhile. */
    static final int SILENCE_MS = 500;
    static final MqttQos[] EVERY_QOS = MqttQos.values();
    static int clients;

    interface Case {
        void run(String topic) throws Exception;
    }

    static void check(boolean holds, Object what) {
        if (!holds) throw new AssertionError(String.valueOf(what));
    }

    static void until(Object what, BooleanSupplier holds) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_S);
        while (!holds.getAsBoolean()) {
            check(System.nanoTime() < deadline, "never: " + what);
            Thread.sleep(10);
        }
    }

    static String named(String topic) {
        return topic.replace('/', '-') + clients++;
    }

    static Mqtt5ClientBuilder five(String name) {
        return Mqtt5Client.builder().serverHost("localhost").serverPort(1883).identifier(name);
    }

    static Mqtt5BlockingClient connected(String topic) {
        Mqtt5BlockingClient client = five(named(topic)).buildBlocking();
        client.connect();
        return client;
    }

    static Mqtt3BlockingClient connected3(String topic) {
        Mqtt3BlockingClient client = Mqtt3Client.builder().serverHost("localhost").serverPort(1883)
                .identifier(named(topic)).buildBlocking();
        client.connect();
        return client;
    }

    static Mqtt5Publish message(String topic, MqttQos qos, String text) {
        return Mqtt5Publish.builder().topic(topic).qos(qos).payload(text.getBytes(StandardCharsets.UTF_8)).build();
    }

    static String text(Mqtt5Publish message) {
        return new String(message.getPayloadAsBytes(), StandardCharsets.UTF_8);
    }

    static Mqtt5Publish next(Mqtt5Publishes publishes) throws Exception {
        return publishes.receive(WAIT_S, TimeUnit.SECONDS).orElseThrow(() -> new AssertionError("nothing came"));
    }

    static void nothing(Mqtt5Publishes publishes) throws Exception {
        Optional<Mqtt5Publish> found = publishes.receive(SILENCE_MS, TimeUnit.MILLISECONDS);
        check(found.isEmpty(), found);
    }

    static void subscribe(Mqtt5BlockingClient client, String filter) {
        client.subscribeWith().topicFilter(filter).qos(MqttQos.EXACTLY_ONCE).send();
    }

    static List<String> numbers(int upto) {
        return IntStream.range(0, upto).mapToObj(String::valueOf).collect(Collectors.toList());
    }

    static void properties(String topic) throws Exception {
        Mqtt5BlockingClient client = connected(topic);
        try (Mqtt5Publishes publishes = client.publishes(MqttGlobalPublishFilter.ALL)) {
            subscribe(client, topic);
            for (MqttQos qos : EVERY_QOS) {
                client.publishWith().topic(topic).qos(qos).payload("ü".getBytes(StandardCharsets.UTF_8))
                        .contentType("text/plain").responseTopic(topic + "/answer").correlationData("c".getBytes())
                        .payloadFormatIndicator(Mqtt5PayloadFormatIndicator.UTF_8).messageExpiryInterval(100)
                        .userProperties().add("a", "1").add("a", "2").add("b", "").applyUserProperties().send();
                Mqtt5Publish got = next(publishes);
                check(got.getQos() == qos && text(got).equals("ü") && !got.isRetain(), got);
                check(got.getContentType().get().toString().equals("text/plain"), got);
                check(got.getResponseTopic().get().toString().equals(topic + "/answer"), got);
                check(got.getCorrelationData().get().get(0) == 'c', got);
                check(got.getPayloadFormatIndicator().get() == Mqtt5PayloadFormatIndicator.UTF_8, got);
                check(got.getMessageExpiryInterval().getAsLong() <= 100, got);
                check(got.getUserProperties().asList().stream().map(pair -> pair.getName() + "=" + pair.getValue())
                        .collect(Collectors.toList()).equals(List.of("a=1", "a=2", "b=")), got);
            }
        }
        client.disconnect();
    }

    static void reasons(String topic) {
        Mqtt5BlockingClient client = connected(topic);
        Mqtt5PublishResult nobody = client.publish(message(topic, MqttQos.AT_LEAST_ONCE, ""));
        check(((Mqtt5PublishResult.Mqtt5Qos1Result) nobody).getPubAck().getReasonCode()
                == Mqtt5PubAckReasonCode.NO_MATCHING_SUBSCRIBERS, nobody);
        subscribe(client, topic);
        Mqtt5PublishResult somebody = client.publish(message(topic, MqttQos.AT_LEAST_ONCE, ""));
        check(((Mqtt5PublishResult.Mqtt5Qos1Result) somebody).getPubAck().getReasonCode()
                == Mqtt5PubAckReasonCode.SUCCESS, somebody);
        check(client.unsubscribeWith().topicFilter(topic).send().getReasonCodes()
                .equals(List.of(Mqtt5UnsubAckReasonCode.SUCCESS)), "unsubscribed");
        check(client.unsubscribeWith().topicFilter(topic).send().getReasonCodes()
                .equals(List.of(Mqtt5UnsubAckReasonCode.NO_SUBSCRIPTIONS_EXISTED)), "unsubscribed twice");
        client.disconnect();
    }

    static void session(String topic) throws Exception {
        Mqtt5BlockingClient sender = connected(topic);
        Mqtt5BlockingClient client = five(named(topic)).buildBlocking();
        Mqtt5ConnAck fresh = client.connectWith().cleanStart(true).sessionExpiryInterval(600).send();
        check(!fresh.isSessionPresent(), fresh);
        subscribe(client, topic + "/#");
        client.disconnect();
        for (int i = 0; i < 300; i++) {
            sender.publish(message(topic + "/" + i % 3, EVERY_QOS[1 + i % 2], String.valueOf(i)));
        }
        try (Mqtt5Publishes publishes = client.publishes(MqttGlobalPublishFilter.ALL)) {
            Mqtt5ConnAck resumed = client.connectWith().cleanStart(false).sessionExpiryInterval(600).send();
            check(resumed.isSessionPresent(), resumed);
            List<String> came = new ArrayList<>();
            while (came.size() < 300) came.add(text(next(publishes)));
            check(came.equals(numbers(300)), came);
            nothing(publishes);
        }
        client.disconnectWith().sessionExpiryInterval(0).send();
        Mqtt5ConnAck ended = client.connectWith().cleanStart(false).sessionExpiryInterval(0).send();
        check(!ended.isSessionPresent(), ended);
        client.disconnect();
        sender.disconnect();
    }

    static void shared(String topic) throws Exception {
        Set<String> all = java.util.concurrent.ConcurrentHashMap.newKeySet();
        AtomicInteger[] each = {new AtomicInteger(), new AtomicInteger(), new AtomicInteger()};
        List<Mqtt5BlockingClient> members = new ArrayList<>();
        for (AtomicInteger count : each) {
            Mqtt5BlockingClient member = connected(topic);
            member.toAsync().subscribeWith().topicFilter("$share/group/" + topic + "/+").qos(MqttQos.AT_LEAST_ONCE)
                    .callback(got -> { all.add(text(got)); count.incrementAndGet(); }).send().get();
            members.add(member);
        }
        for (String number : numbers(300)) {
            members.get(0).publish(message(topic + "/" + number, MqttQos.AT_LEAST_ONCE, number));
        }
        until("each of 300", () -> all.size() == 300);
        Thread.sleep(SILENCE_MS);
        check(each[0].get() + each[1].get() + each[2].get() == 300, List.of(each));
        for (AtomicInteger count : each) check(count.get() >= 30, List.of(each));
        members.forEach(Mqtt5BlockingClient::disconnect);
    }

    static void retained(String topic) throws Exception {
        Mqtt5BlockingClient sender = connected(topic);
        for (int i = 0; i < 3; i++) {
            sender.publishWith().topic(topic + "/" + i).payload(String.valueOf(i).getBytes()).retain(true)
                    .qos(MqttQos.AT_LEAST_ONCE).send();
        }
        sender.publishWith().topic(topic + "/1").retain(true).qos(MqttQos.AT_LEAST_ONCE).send();
        Mqtt5BlockingClient client = connected(topic);
        try (Mqtt5Publishes publishes = client.publishes(MqttGlobalPublishFilter.ALL)) {
            client.subscribeWith().topicFilter(topic + "/+").retainHandling(Mqtt5RetainHandling.DO_NOT_SEND).send();
            nothing(publishes);
            client.subscribeWith().topicFilter(topic + "/+")
                    .retainHandling(Mqtt5RetainHandling.SEND_IF_SUBSCRIPTION_DOES_NOT_EXIST).send();
            nothing(publishes);
            client.subscribeWith().topicFilter(topic + "/+").retainAsPublished(true).noLocal(true).send();
            Set<String> came = new HashSet<>(List.of(text(next(publishes)), text(next(publishes))));
            check(came.equals(Set.of("0", "2")), came);
            sender.publishWith().topic(topic + "/0").payload("new".getBytes()).retain(true).send();
            Mqtt5Publish got = next(publishes);
            check(got.isRetain() && text(got).equals("new"), got);
            client.publish(message(topic + "/own", MqttQos.AT_LEAST_ONCE, "own"));
            nothing(publishes);
        }
        client.disconnect();
        sender.disconnect();
    }

    static void will(String topic) throws Exception {
        Mqtt5BlockingClient watcher = connected(topic);
        try (Mqtt5Publishes publishes = watcher.publishes(MqttGlobalPublishFilter.ALL)) {
            subscribe(watcher, topic);
            Mqtt5BlockingClient client = five(named(topic)).buildBlocking();
            client.connectWith().willPublish().topic(topic).qos(MqttQos.EXACTLY_ONCE).payload("gone".getBytes())
                    .contentType("text/last").applyWillPublish().send();
            client.disconnect();
            nothing(publishes);
            client.connectWith().willPublish().topic(topic).qos(MqttQos.EXACTLY_ONCE).payload("gone".getBytes())
                    .contentType("text/last").applyWillPublish().send();
            client.disconnectWith().reasonCode(Mqtt5DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE).send();
            Mqtt5Publish got = next(publishes);
            check(text(got).equals("gone") && got.getContentType().get().toString().equals("text/last"), got);
            client.connectWith().sessionExpiryInterval(60).willPublish().topic(topic).payload("late".getBytes())
                    .delayInterval(1).applyWillPublish().send();
            client.disconnectWith().reasonCode(Mqtt5DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE).send();
            nothing(publishes);
            check(text(next(publishes)).equals("late"), "a late will");
        }
        watcher.disconnect();
    }

    static void expiry(String topic) throws Exception {
        Mqtt5BlockingClient sender = connected(topic);
        Mqtt5BlockingClient client = five(named(topic)).buildBlocking();
        client.connectWith().sessionExpiryInterval(60).send();
        subscribe(client, topic);
        client.disconnect();
        sender.publishWith().topic(topic).qos(MqttQos.AT_LEAST_ONCE).payload("short".getBytes())
                .messageExpiryInterval(1).send();
        sender.publishWith().topic(topic).qos(MqttQos.AT_LEAST_ONCE).payload("long".getBytes())
                .messageExpiryInterval(100).send();
        Thread.sleep(2100);
        try (Mqtt5Publishes publishes = client.publishes(MqttGlobalPublishFilter.ALL)) {
            client.connectWith().cleanStart(false).send();
            Mqtt5Publish got = next(publishes);
            check(text(got).equals("long") && got.getMessageExpiryInterval().getAsLong() <= 98, got);
            nothing(publishes);
        }
        client.disconnect();
        sender.disconnect();
    }

    static void window(String topic) throws Exception {
        Mqtt5BlockingClient sender = connected(topic);
        Mqtt5BlockingClient client = five(named(topic)).buildBlocking();
        client.connectWith().restrictions().receiveMaximum(5).applyRestrictions().send();
        List<Mqtt5Publish> unanswered = new CopyOnWriteArrayList<>();
        client.toAsync().subscribeWith().topicFilter(topic).qos(MqttQos.AT_LEAST_ONCE).callback(unanswered::add)
                .manualAcknowledgement(true).send().get();
        for (String number : numbers(12)) sender.publish(message(topic, MqttQos.AT_LEAST_ONCE, number));
        until("five", () -> unanswered.size() == 5);
        Thread.sleep(SILENCE_MS);
        check(unanswered.size() == 5, unanswered.size());
        for (int i = 0; i < 12; i++) {
            int wanted = i + 1;
            until("message " + i, () -> unanswered.size() >= wanted);
            unanswered.get(i).acknowledge();
        }
        List<String> came = unanswered.stream().map(HiveMqSuite::text).collect(Collectors.toList());
        check(came.equals(numbers(12)), came);
        client.disconnect();
        sender.disconnect();
    }

    static void packets(String topic) throws Exception {
        Mqtt5BlockingClient sender = connected(topic);
        Mqtt5BlockingClient client = five(named(topic)).buildBlocking();
        client.connectWith().restrictions().maximumPacketSize(1000).applyRestrictions().send();
        try (Mqtt5Publishes publishes = client.publishes(MqttGlobalPublishFilter.ALL)) {
            subscribe(client, topic);
            sender.publish(message(topic, MqttQos.AT_LEAST_ONCE, "x".repeat(2000)));
            sender.publish(message(topic, MqttQos.AT_LEAST_ONCE, "small"));
            check(text(next(publishes)).equals("small"), "what is too large is left out");
        }
        client.disconnect();
        sender.disconnect();
    }

    static void aliases(String topic) throws Exception {
        Mqtt5BlockingClient client = five(named(topic)).buildBlocking();
        Mqtt5ConnAck answer = client.connectWith().restrictions().topicAliasMaximum(4).sendTopicAliasMaximum(4)
                .applyRestrictions().send();
        check(answer.getRestrictions().getTopicAliasMaximum() > 0, answer);
        AtomicInteger right = new AtomicInteger();
        client.toAsync().subscribeWith().topicFilter(topic + "/#").qos(MqttQos.AT_LEAST_ONCE)
                .callback(got -> { if (got.getTopic().toString().equals(text(got))) right.incrementAndGet(); })
                .send().get();
        for (int i = 0; i < 500; i++) {
            String name = topic + "/" + i % 7;
            client.publish(message(name, EVERY_QOS[i % 2], name));
        }
        until("500 by their right names", () -> right.get() == 500);
        client.disconnect();
    }

    static void takenOver(String topic) throws Exception {
        CompletableFuture<Throwable> cause = new CompletableFuture<>();
        String name = named(topic);
        Mqtt5BlockingClient first = five(name).addDisconnectedListener(lost -> cause.complete(lost.getCause()))
                .buildBlocking();
        first.connect();
        Mqtt5BlockingClient second = five(name).buildBlocking();
        second.connect();
        Throwable why = cause.get(WAIT_S, TimeUnit.SECONDS);
        check(why instanceof Mqtt5DisconnectException && ((Mqtt5DisconnectException) why).getMqttMessage()
                .getReasonCode() == Mqtt5DisconnectReasonCode.SESSION_TAKEN_OVER, why);
        second.disconnect();
    }

    static void reconnect(String topic) throws Exception {
        String name = named(topic);
        AtomicInteger connects = new AtomicInteger();
        Mqtt5BlockingClient client = five(name).automaticReconnect().initialDelay(100, TimeUnit.MILLISECONDS)
                .applyAutomaticReconnect().addConnectedListener(ready -> connects.incrementAndGet()).buildBlocking();
        client.connectWith().cleanStart(false).sessionExpiryInterval(60).send();
        try (Mqtt5Publishes publishes = client.publishes(MqttGlobalPublishFilter.ALL)) {
            subscribe(client, topic);
            Mqtt5BlockingClient thief = five(name).buildBlocking();
            thief.connectWith().cleanStart(false).sessionExpiryInterval(60).send();
            until("it came back by itself", () -> connects.get() == 2);
            until("the other was sent away", () -> thief.getState() == MqttClientState.DISCONNECTED);
            client.publish(message(topic, MqttQos.EXACTLY_ONCE, "still"));
            check(text(next(publishes)).equals("still"), "the subscription is still there");
        }
        client.disconnect();
    }

    static void refused(String topic) {
        Mqtt5BlockingClient client = connected(topic);
        try {
            client.subscribeWith().addSubscription().topicFilter("$exclusive/" + topic).applySubscription().send();
            Mqtt5BlockingClient other = connected(topic);
            try {
                other.subscribeWith().addSubscription().topicFilter("$exclusive/" + topic).applySubscription().send();
                throw new AssertionError("two have it");
            } catch (Mqtt5SubAckException refused) {
                Mqtt5SubAckReasonCode code = refused.getMqttMessage().getReasonCodes().get(0);
                check(code.getCode() == 0x97, code);
            }
            other.disconnect();
        } finally {
            client.disconnect();
        }
    }

    static void answers(String topic) throws Exception {
        Mqtt5BlockingClient server = connected(topic);
        server.toAsync().subscribeWith().topicFilter(topic + "/ask").qos(MqttQos.AT_LEAST_ONCE)
                .callback(asked -> server.toAsync().publish(Mqtt5Publish.builder()
                        .topic(asked.getResponseTopic().get()).qos(MqttQos.AT_LEAST_ONCE)
                        .payload(text(asked).toUpperCase().getBytes())
                        .correlationData(asked.getCorrelationData().get()).build())).send().get();
        Mqtt5BlockingClient client = connected(topic);
        try (Mqtt5Publishes publishes = client.publishes(MqttGlobalPublishFilter.ALL)) {
            subscribe(client, topic + "/answer");
            for (int i = 0; i < 100; i++) {
                client.publishWith().topic(topic + "/ask").qos(MqttQos.AT_LEAST_ONCE).payload(("q" + i).getBytes())
                        .responseTopic(topic + "/answer").correlationData(new byte[] {(byte) i}).send();
                Mqtt5Publish answer = next(publishes);
                check(text(answer).equals("Q" + i) && answer.getCorrelationData().get().get(0) == i, answer);
            }
        }
        client.disconnect();
        server.disconnect();
    }

    static void flowing(String topic) throws Exception {
        int count = 10_000;
        Mqtt5BlockingClient client = connected(topic);
        AtomicInteger arrived = new AtomicInteger();
        String[] order = new String[count];
        client.toAsync().subscribeWith().topicFilter(topic).qos(MqttQos.EXACTLY_ONCE)
                .callback(got -> order[arrived.getAndIncrement() % count] = text(got)).send().get();
        Mqtt5BlockingClient sender = connected(topic);
        long failed = sender.toRx().publish(Flowable.range(0, count)
                .map(i -> message(topic, EVERY_QOS[1 + i % 2], String.valueOf(i))))
                .filter(result -> result.getError().isPresent()).count().blockingGet();
        check(failed == 0, failed);
        until(count + " in flow", () -> arrived.get() >= count);
        Thread.sleep(SILENCE_MS);
        check(arrived.get() == count, arrived);
        // Order holds among those of one QoS.
        for (int odd = 0; odd < 2; odd++) {
            int last = -1;
            for (String text : order) {
                int number = Integer.parseInt(text);
                if (number % 2 != odd) continue;
                check(number > last, "after " + last + " came " + number);
                last = number;
            }
        }
        client.disconnect();
        sender.disconnect();
    }

    static void websocket(String topic) throws Exception {
        Mqtt5BlockingClient client = Mqtt5Client.builder().serverHost("localhost").serverPort(15672)
                .identifier(named(topic)).webSocketConfig().serverPath("mqtt").applyWebSocketConfig().buildBlocking();
        client.connect();
        try (Mqtt5Publishes publishes = client.publishes(MqttGlobalPublishFilter.ALL)) {
            subscribe(client, topic);
            client.publish(message(topic, MqttQos.EXACTLY_ONCE, "x".repeat(100_000)));
            check(text(next(publishes)).length() == 100_000, "a large message");
        }
        client.disconnect();
    }

    static void three(String topic) throws Exception {
        Mqtt3BlockingClient client = connected3(topic);
        try (Mqtt3BlockingClient.Mqtt3Publishes publishes = client.publishes(MqttGlobalPublishFilter.ALL)) {
            client.subscribeWith().topicFilter(topic + "/+").qos(MqttQos.EXACTLY_ONCE).send();
            for (MqttQos qos : EVERY_QOS) {
                client.publishWith().topic(topic + "/a").qos(qos).payload(qos.name().getBytes()).send();
                Mqtt3Publish got = publishes.receive(WAIT_S, TimeUnit.SECONDS).orElseThrow();
                check(got.getQos() == qos && new String(got.getPayloadAsBytes()).equals(qos.name()), got);
            }
        }
        client.disconnect();
    }

    static void session3(String topic) throws Exception {
        String name = named(topic);
        Mqtt3BlockingClient client = Mqtt3Client.builder().serverHost("localhost").serverPort(1883).identifier(name)
                .buildBlocking();
        check(!client.connectWith().cleanSession(false).send().isSessionPresent(), "a session before any");
        client.subscribeWith().topicFilter(topic).qos(MqttQos.EXACTLY_ONCE).send();
        client.disconnect();
        Mqtt3BlockingClient sender = connected3(topic);
        for (String number : numbers(50)) {
            sender.publishWith().topic(topic).qos(MqttQos.EXACTLY_ONCE).payload(number.getBytes()).send();
        }
        try (Mqtt3BlockingClient.Mqtt3Publishes publishes = client.publishes(MqttGlobalPublishFilter.ALL)) {
            check(client.connectWith().cleanSession(false).send().isSessionPresent(), "no session");
            List<String> came = new ArrayList<>();
            while (came.size() < 50) {
                came.add(new String(publishes.receive(WAIT_S, TimeUnit.SECONDS).orElseThrow().getPayloadAsBytes()));
            }
            check(came.equals(numbers(50)), came);
        }
        client.disconnect();
        check(!client.connectWith().cleanSession(true).send().isSessionPresent(), "a clean one is not kept");
        client.disconnect();
        sender.disconnect();
    }

    static void between(String topic) throws Exception {
        Mqtt3BlockingClient old = connected3(topic);
        Mqtt5BlockingClient young = connected(topic);
        try (Mqtt5Publishes of5 = young.publishes(MqttGlobalPublishFilter.ALL);
                Mqtt3BlockingClient.Mqtt3Publishes of3 = old.publishes(MqttGlobalPublishFilter.ALL)) {
            subscribe(young, topic + "/old");
            old.subscribeWith().topicFilter(topic + "/young").qos(MqttQos.EXACTLY_ONCE).send();
            old.publishWith().topic(topic + "/old").qos(MqttQos.EXACTLY_ONCE).payload("up".getBytes()).send();
            check(text(next(of5)).equals("up"), "3 to 5");
            young.publishWith().topic(topic + "/young").qos(MqttQos.AT_LEAST_ONCE).payload("down".getBytes())
                    .userProperties().add("a", "1").applyUserProperties().send();
            check(new String(of3.receive(WAIT_S, TimeUnit.SECONDS).orElseThrow().getPayloadAsBytes()).equals("down"),
                    "5 to 3");
        }
        old.disconnect();
        young.disconnect();
    }

    static boolean passes(String name, Case test) {
        try {
            test.run("hivemq/" + name);
            System.out.println("PASS " + name);
            return true;
        } catch (Throwable failure) {
            System.out.println("FAIL " + name);
            failure.printStackTrace(System.out);
            return false;
        }
    }

    public static void main(String[] arguments) {
        boolean all = passes("properties-of-every-qos", HiveMqSuite::properties)
                & passes("reason-codes", HiveMqSuite::reasons)
                & passes("a-session-resumes-in-order", HiveMqSuite::session)
                & passes("a-shared-group-is-balanced", HiveMqSuite::shared)
                & passes("retained-and-its-handling", HiveMqSuite::retained)
                & passes("wills-sent-and-cancelled", HiveMqSuite::will)
                & passes("message-expiry", HiveMqSuite::expiry)
                & passes("receive-maximum-and-late-acknowledgement", HiveMqSuite::window)
                & passes("maximum-packet-size", HiveMqSuite::packets)
                & passes("topic-aliases-both-ways", HiveMqSuite::aliases)
                & passes("taken-over", HiveMqSuite::takenOver)
                & passes("reconnects-by-itself", HiveMqSuite::reconnect)
                & passes("an-exclusive-subscription-is-refused", HiveMqSuite::refused)
                & passes("request-and-response", HiveMqSuite::answers)
                & passes("ten-thousand-in-flow", HiveMqSuite::flowing)
                & passes("by-websocket", HiveMqSuite::websocket)
                & passes("v3-every-qos", HiveMqSuite::three)
                & passes("v3-session", HiveMqSuite::session3)
                & passes("v3-and-v5-together", HiveMqSuite::between);
        System.exit(all ? 0 : 1);
    }
}
