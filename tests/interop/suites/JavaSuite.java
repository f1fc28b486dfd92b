import com.rabbitmq.client.test.*;
import com.rabbitmq.client.test.functional.*;
import java.util.*;
import org.junit.runner.*;
import org.junit.runner.manipulation.Filter;
import org.junit.runner.notification.*;

/** Runs the functional tests of RabbitMQ's Java client that need a broker and nothing else. */
public class JavaSuite {
    private static final Class<?>[] CLASSES = {
        Tables.class, DoubleDeletion.class, Routing.class, BindingLifecycle.class, Recover.class,
        Reject.class, Transactions.class, RequeueOnConnectionClose.class,
        RequeueOnChannelClose.class, DurableOnTransient.class, NoRequeueOnCancel.class,
        Bug20004Test.class, ExchangeDeleteIfUnused.class, QosTests.class, AlternateExchange.class,
        ExchangeExchangeBindings.class, ExchangeExchangeBindingsAutoDelete.class,
        ExchangeDeclare.class, FrameMax.class, QueueLifecycle.class, QueueLease.class,
        QueueExclusivity.class, QueueSizeLimit.class, InvalidAcks.class, InvalidAcksTx.class,
        DefaultExchange.class, UnbindAutoDeleteExchange.class, Confirm.class,
        ConsumerCancelNotification.class, UnexpectedFrames.class, PerQueueTTL.class,
        PerMessageTTL.class, PerQueueVsPerMessageTTL.class, DeadLetterExchange.class,
        SaslMechanisms.class, UserIDHeader.class, InternalExchange.class, CcRoutes.class,
        HeadersExchangeValidation.class, ConsumerPriorities.class, ExceptionHandling.class,
        PerConsumerPrefetch.class, DirectReplyTo.class, ConsumerCount.class, BasicGet.class,
        Nack.class, ExceptionMessages.class, MessageCount.class, Heartbeat.class,
        ConnectionOpen.class, BasicConsume.class, CloseInMainLoop.class, RpcTest.class,
        QueueingConsumerTests.class, ChannelAsyncCompletableFutureTest.class,
        ChannelRpcTimeoutIntegrationTest.class, SharedThreadPoolTest.class, JavaNioTest.class,
    };

    /** They call rabbitmqctl or restart the broker with RabbitMQ's own makefile. */
    private static final Set<String> WITHOUT = new HashSet<>(Arrays.asList(
        "restartingExpiry", "impersonatedUserId"));

    public static void main(String[] arguments) {
        boolean failed = false;
        JUnitCore core = new JUnitCore();
        core.addListener(new RunListener() {
            private String failed;

            private String name(Description test) {
                String[] words = test.getClassName().split("\\.");
                return words[words.length - 1] + "." + test.getMethodName();
            }

            @Override public void testFailure(Failure failure) {
                failed = name(failure.getDescription());
                System.out.println("FAIL " + failed + " " + failure.getMessage());
                System.out.println(failure.getTrace());
            }

            @Override public void testAssumptionFailure(Failure failure) {
                failed = name(failure.getDescription());
                System.out.println("SKIP " + failed);
            }

            @Override public void testFinished(Description test) {
                if (!name(test).equals(failed)) System.out.println("PASS " + name(test));
            }
        });
        for (Class<?> each : CLASSES) {
            failed |= !core.run(Request.aClass(each).filterWith(new Filter() {
                @Override public boolean shouldRun(Description test) {
                    return test.getMethodName() == null || !WITHOUT.contains(test.getMethodName());
                }

                @Override public String describe() {
                    return "needs only a broker";
                }
            })).wasSuccessful();
        }
        System.exit(failed ? 1 : 0);
    }
}
