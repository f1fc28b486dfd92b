import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BooleanSupplier;
import org.springframework.amqp.core.BindingBuilder;
import org.springframework.amqp.core.Declarables;
import org.springframework.amqp.core.DirectExchange;
import org.springframework.amqp.core.Queue;
import org.springframework.amqp.core.QueueBuilder;
import org.springframework.amqp.core.TopicExchange;
import org.springframework.amqp.rabbit.annotation.EnableRabbit;
import org.springframework.amqp.rabbit.annotation.Exchange;
import org.springframework.amqp.rabbit.annotation.QueueBinding;
import org.springframework.amqp.rabbit.annotation.RabbitListener;
import org.springframework.amqp.AmqpRejectAndDontRequeueException;
import org.springframework.amqp.rabbit.config.DirectRabbitListenerContainerFactory;
import org.springframework.amqp.rabbit.config.SimpleRabbitListenerContainerFactory;
import org.springframework.amqp.rabbit.connection.CachingConnectionFactory;
import org.springframework.amqp.rabbit.connection.ConnectionFactory;
import org.springframework.amqp.rabbit.connection.CorrelationData;
import org.springframework.amqp.rabbit.core.RabbitAdmin;
import org.springframework.amqp.rabbit.core.RabbitTemplate;
import org.springframework.amqp.rabbit.listener.RabbitListenerEndpointRegistry;
import org.springframework.context.annotation.AnnotationConfigApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.messaging.handler.annotation.Header;

/**
 * An application of Spring AMQP: annotated listeners in both kinds of containers, a template with
 * correlated confirms and returns, retries by a wait queue, RPC. Prints a PASS line for each case, and a FAIL
 * line for one that ends the run.
 */
public class SpringSuite {
    static final int PORT = 5672;
    static final Map<String, AtomicInteger> attempts = new ConcurrentHashMap<>();
    static final List<String> handled = new CopyOnWriteArrayList<>();
    static final List<String> parked = new CopyOnWriteArrayList<>();
    static final AtomicInteger returned = new AtomicInteger();

    @Configuration
    @EnableRabbit
    public static class Config {
        @Bean CachingConnectionFactory connectionFactory() {
            CachingConnectionFactory factory = new CachingConnectionFactory("localhost", PORT);
            factory.setUsername("guest");
            factory.setPassword("guest");
            factory.setPublisherConfirmType(CachingConnectionFactory.ConfirmType.CORRELATED);
            factory.setPublisherReturns(true);
            return factory;
        }
        @Bean RabbitAdmin admin(ConnectionFactory factory) { return new RabbitAdmin(factory); }
        @Bean RabbitTemplate template(ConnectionFactory factory) {
            RabbitTemplate template = new RabbitTemplate(factory);
            template.setMandatory(true);
            template.setReturnsCallback(message -> returned.incrementAndGet());
            return template;
        }
        @Bean SimpleRabbitListenerContainerFactory rabbitListenerContainerFactory(ConnectionFactory factory) {
            SimpleRabbitListenerContainerFactory made = new SimpleRabbitListenerContainerFactory();
            made.setConnectionFactory(factory);
            made.setPrefetchCount(10);
            made.setConcurrentConsumers(2);
            made.setMaxConcurrentConsumers(4);
            made.setDefaultRequeueRejected(false);
            return made;
        }
        @Bean DirectRabbitListenerContainerFactory direct(ConnectionFactory factory) {
            DirectRabbitListenerContainerFactory made = new DirectRabbitListenerContainerFactory();
            made.setConnectionFactory(factory);
            made.setPrefetchCount(5);
            made.setConsumersPerQueue(3);
            return made;
        }
        @Bean Declarables topology() {
            Queue orders = QueueBuilder.durable("spring.orders").deadLetterExchange("spring.dlx")
                .deadLetterRoutingKey("orders.retry").build();
            Queue retry = QueueBuilder.durable("spring.retry").ttl(200)
                .deadLetterExchange("spring.orders").deadLetterRoutingKey("orders.new").build();
            Queue parking = QueueBuilder.durable("spring.parking").quorum().build();
            Queue direct = QueueBuilder.durable("spring.direct").build();
            TopicExchange exchange = new TopicExchange("spring.orders");
            DirectExchange dlx = new DirectExchange("spring.dlx");
            return new Declarables(orders, retry, parking, direct, exchange, dlx,
                BindingBuilder.bind(orders).to(exchange).with("orders.#"),
                BindingBuilder.bind(retry).to(dlx).with("orders.retry"));
        }
        @Bean Listeners listeners(RabbitTemplate template) { return new Listeners(template); }
    }

    public static class Listeners {
        final RabbitTemplate template;
        Listeners(RabbitTemplate template) { this.template = template; }

        /** Bad ones go round by the retry queue three times, then to the parking lot. */
        @RabbitListener(queues = "spring.orders")
        public void order(String body, @Header(name = "x-death", required = false) List<Map<String, ?>> deaths) {
            int attempt = attempts.computeIfAbsent(body, any -> new AtomicInteger()).incrementAndGet();
            if (!body.startsWith("bad")) { handled.add(body); return; }
            long died = deaths == null ? 0 : deaths.stream().filter(d -> "spring.orders".equals(d.get("queue")))
                .mapToLong(d -> ((Number) d.get("count")).longValue()).sum();
            if (died != attempt - 1) throw new IllegalStateException("x-death says " + died + " of " + attempt);
            if (died >= 3) { template.convertAndSend("", "spring.parking", body); return; }
            throw new AmqpRejectAndDontRequeueException("again");
        }
        @RabbitListener(queues = "spring.parking", containerFactory = "direct")
        public void park(String body) { parked.add(body); }
        @RabbitListener(queues = "spring.direct", containerFactory = "direct")
        public String answer(String question) { return question.toUpperCase(); }
        @RabbitListener(bindings = @QueueBinding(value = @org.springframework.amqp.rabbit.annotation.Queue,
            exchange = @Exchange(value = "spring.fan", type = "fanout"), key = ""))
        public void fan(String body) { handled.add("fan " + body); }
    }

    static void until(String what, BooleanSupplier condition) throws InterruptedException {
        long deadline = System.nanoTime() + 20_000_000_000L;
        while (!condition.getAsBoolean()) {
            if (System.nanoTime() > deadline) throw new AssertionError(what);
            Thread.sleep(20);
        }
        pass(what);
    }
    static void pass(String what) { System.out.println("PASS " + what.replace(' ', '-')); }

    /** The case in progress ends the run if it fails: the containers' threads would keep it alive. */
    public static void main(String[] arguments) {
        try {
            run();
        } catch (Throwable failure) {
            failure.printStackTrace(System.out);
            System.out.println("FAIL " + String.valueOf(failure.getMessage()).replaceAll("\\s+", "-"));
            System.exit(1);
        }
        System.exit(0);
    }

    static void run() throws Exception {
        AnnotationConfigApplicationContext context = new AnnotationConfigApplicationContext(Config.class);
        RabbitTemplate template = context.getBean(RabbitTemplate.class);
        RabbitAdmin admin = context.getBean(RabbitAdmin.class);
        List<CorrelationData> confirms = new ArrayList<>();
        for (int i = 0; i < 1000; i++) {
            CorrelationData data = new CorrelationData("m" + i);
            template.convertAndSend("spring.orders", "orders.new", (i % 100 == 0 ? "bad " : "good ") + i, data);
            confirms.add(data);
        }
        for (CorrelationData data : confirms) {
            if (!data.getFuture().get(20, TimeUnit.SECONDS).isAck()) throw new AssertionError("nack of " + data);
        }
        pass("correlated confirms");
        until("all good ones are handled", () -> handled.size() == 990);
        until("bad ones are retried three times and parked", () -> parked.size() == 10);
        for (Map.Entry<String, AtomicInteger> one : attempts.entrySet()) {
            int wanted = one.getKey().startsWith("bad") ? 4 : 1;
            if (one.getValue().get() != wanted) throw new AssertionError(one.toString());
        }
        CorrelationData lost = new CorrelationData("lost");
        template.convertAndSend("spring.orders", "nobody", "x", lost);
        if (!lost.getFuture().get(20, TimeUnit.SECONDS).isAck() || lost.getReturned() == null) throw new AssertionError("a return comes before its confirm");
        pass("returned before confirmed");
        for (int i = 0; i < 200; i++) {
            Object answer = template.convertSendAndReceive("", "spring.direct", "question " + i);
            if (!("QUESTION " + i).equals(answer)) throw new AssertionError("answer " + answer);
        }
        pass("direct reply-to rpc");
        template.convertAndSend("spring.fan", "", "out");
        until("an anonymous queue of a listener", () -> handled.contains("fan out"));
        template.invoke(operations -> {
            for (int i = 0; i < 100; i++) operations.convertAndSend("", "spring.parking", "scoped " + i);
            return true;
        });
        until("scoped operations", () -> parked.size() == 110);
        Properties about = admin.getQueueProperties("spring.orders");
        if (about == null || !Integer.valueOf(0).equals(about.get(RabbitAdmin.QUEUE_MESSAGE_COUNT))) throw new AssertionError("" + about);
        if (((Number) about.get(RabbitAdmin.QUEUE_CONSUMER_COUNT)).intValue() < 2) throw new AssertionError("" + about);
        pass("queue properties");
        RabbitListenerEndpointRegistry registry = context.getBean(RabbitListenerEndpointRegistry.class);
        registry.stop();
        template.convertAndSend("spring.orders", "orders.new", "later");
        registry.start();
        until("listeners stop and start", () -> handled.contains("later"));
        RabbitTemplate transacted = new RabbitTemplate(new CachingConnectionFactory("localhost", PORT));
        transacted.setChannelTransacted(true);
        transacted.convertAndSend("spring.orders", "orders.new", "transacted");
        until("a transacted template", () -> handled.contains("transacted"));
        ((CachingConnectionFactory) transacted.getConnectionFactory()).destroy();
        for (String name : List.of("spring.orders", "spring.retry", "spring.parking", "spring.direct")) admin.deleteQueue(name);
        context.close();
    }
}
