/* The load generator of `make bench`: many members' WebSocket connections in one thread, every frame checked.
 *
 *   load --scenario fanout --members FILE --in-flight 16 --seconds 4
 *
 * FILE has one line a connection: token, member, room, port of 127.0.0.1, with a space between. Rooms and tokens were
 * made before. Members of one room may connect to different nodes.
 *
 *   fanout  all lines are of one room; the first member sends, and keeps --in-flight messages on the way
 *   pairs   lines 1 and 2 share a room, 3 and 4 ...; each member sends one, then one for each that its partner sent
 *   relay   the same rooms, but only the first of each two sends, at --rate
 *   alone   each member is alone in its room, and keeps --in-flight messages on the way
 *   idle    connect, report, and stay until standard input ends
 *   storm   connect all, --handshakes at a time, report, and leave
 *
 * --protocol: see dialects.c. --hamper stopped: the last member takes nothing while it is measured, or, with slow, 20 kB
 * a second. What it takes is not timed then; afterwards it takes all, and nothing may be missing.
 *
 * --rate R instead sends R messages a second in all (fanout: the first member, else all in turn), and counts each
 * delay from the time the message was due: what a server holds up, it cannot hide. After --warm-up seconds, --seconds
 * are measured, between lines `begin` and `end` on standard output, which lets others measure the same time; then what
 * is on its way is awaited, since nothing may be missing. The report is one line of JSON; exit status 1 and a line on
 * standard error say that something was lost, came twice, and so on.
 */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define PATIENCE (5 * SECOND) /* without any progress for so long, a run has failed */

enum scenario { FANOUT, PAIRS, RELAY, ALONE, IDLE, STORM };
static const char *const SCENARIOS[] = {"fanout", "pairs", "relay", "alone", "idle", "storm"};
#define SCENARIO_COUNT (int)(sizeof SCENARIOS / sizeof *SCENARIOS)

const struct dialect *dialect;
struct tally tally;
size_t text_bytes = 60;

static enum scenario scenario;
static int handshakes = 64;
static const char *server_pids = "";
static uint64_t in_flight = 1;
static double rate, seconds = 4, warm_up = 1;

static int epoll;
static struct connection *connections;
static int count, ready;
static int replying, measuring;
static struct connection *hampered; /* if any */
static int slow, sipping; /* it takes a little; it does so now */
static uint64_t behind;   /* how many messages it lacked in the end */
static struct histogram delays, connects;

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(2);
}

void connection_ready(struct connection *c)
{
    c->state = READY;
    ready++;
    histogram_add(&connects, now_ns() - c->started);
}

void message_came(struct connection *c, int from_other, uint64_t sent_at, uint64_t now)
{
    if (measuring && c != hampered && (from_other || scenario == FANOUT || scenario == ALONE))
        histogram_add(&delays, now > sent_at ? now - sent_at : 0);
    if (replying && (scenario == ALONE || (scenario == PAIRS && from_other)))
        say(c, now_ns());
}

/* How many deliveries the messages sent so far make. */
static uint64_t due(void)
{
    return tally.sent * (scenario == FANOUT ? (uint64_t)count : scenario == ALONE ? 1 : 2);
}

/* Fan-out: a message has arrived when, in all, one delivery for each member more has been counted. */
static void top_up(void)
{
    while (replying && scenario == FANOUT && tally.sent - tally.deliveries / (uint64_t)count < in_flight && !tally.closed)
        say(connections, now_ns());
}

/* A slow member takes 400 bytes every 20 ms. */
static void sip(void)
{
    static uint64_t next;
    uint64_t now = sipping ? now_ns() : 0;
    if (sipping && now >= next) {
        connection_sip(hampered, 400);
        next = now + SECOND / 50;
    }
}

/* Wait for `ns` at the most, and handle what has come. */
static int poll_events(uint64_t ns)
{
    static struct epoll_event events[512];
    struct timespec patience = {.tv_sec = (time_t)(ns / SECOND), .tv_nsec = (long)(ns % SECOND)};
    int n = epoll_pwait2(epoll, events, 512, &patience, NULL);
    for (int i = 0; i < n; i++) {
        connection_event(events[i].data.ptr, events[i].events);
        top_up();
    }
    sip();
    return n;
}

static void poll_for(uint64_t ns)
{
    for (uint64_t end = now_ns() + ns; now_ns() < end;)
        poll_events(SECOND / 200);
}

static void read_members(const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file)
        fail("--members %s: %s", path, strerror(errno));
    struct connection c = {0};
    while (fscanf(file, "%ms %ms %ms %d", &c.token, &c.member, &c.room, &c.port) == 4) {
        c.index = count;
        connections = realloc(connections, (size_t)(count + 1) * sizeof c);
        connections[count++] = c;
    }
    fclose(file);
    if (count < 1 || count > 65535 || ((scenario == PAIRS || scenario == RELAY) && count % 2))
        fail("--members %s: %d lines do not suit this scenario", path, count);
}

static void connect_all(void)
{
    int started = 0, before = 0;
    uint64_t progress = now_ns();
    while (ready + (int)tally.closed < count) {
        while (started < count && started - ready < handshakes)
            connection_start(&connections[started++]);
        poll_events(SECOND / 10);
        if (ready != before) {
            before = ready;
            progress = now_ns();
        } else if (now_ns() - progress > PATIENCE)
            fail("only %d of %d connections were let in within %llu s", ready, count, PATIENCE / SECOND);
    }
    if (tally.closed)
        fail("%llu of %d connections were refused", (unsigned long long)tally.closed, count);
}

/* CPU seconds that the server's processes have used so far. */
static double cpu_of_server(void)
{
    double sum = 0;
    for (const char *pid = server_pids; *pid; pid += strcspn(pid, ","), pid += *pid == ',')
        sum += cpu_of(atoi(pid));
    return sum;
}

struct moment {
    uint64_t time;
    double server, own, all;
    struct tally tally;
};

static struct moment moment_now(void)
{
    return (struct moment){now_ns(), cpu_of_server(), cpu_own(), cpu_all(), tally};
}

/* Who sends next when messages leave at a rate: all in turn, or all senders. */
static struct connection *next_sender(void)
{
    static int turn;
    int step = scenario == RELAY ? 2 : scenario == FANOUT ? count : 1;
    struct connection *c = &connections[turn];
    turn = (turn + step) % count;
    return c;
}

/* Keep the load up until `end`. With a rate the loop sleeps until the next message is due. */
static void load_until(uint64_t end, double *next)
{
    uint64_t progress = now_ns(), before = tally.deliveries;
    for (uint64_t now = progress; now < end; now = now_ns()) {
        for (; rate && *next <= (double)now; *next += 1e9 / rate)
            say(next_sender(), (uint64_t)*next);
        uint64_t rest = rate ? (uint64_t)*next - now : SECOND / 50;
        poll_events(rest < end - now ? rest : end - now);
        if (tally.deliveries != before || (rate && tally.deliveries == due())) {
            before = tally.deliveries;
            progress = now;
        } else if (now - progress > PATIENCE || tally.closed)
            return; /* await_rest() finds what is missing */
    }
}

/* Wait for what is on its way, and a little for what should not come. The answer is how much is missing. */
static uint64_t await_rest(void)
{
    uint64_t progress = now_ns(), before = 0;
    while ((tally.deliveries < due() || (dialect->acknowledges && tally.acknowledged < tally.sent)) && !tally.closed
           && now_ns() - progress < PATIENCE) {
        poll_events(SECOND / 50);
        if (tally.deliveries != before) {
            before = tally.deliveries;
            progress = now_ns();
        }
    }
    poll_for(SECOND / 5);
    if (dialect->acknowledges && tally.acknowledged != tally.sent)
        tally.refused += 1;
    return due() > tally.deliveries ? due() - tally.deliveries : 0;
}

static void report_quantiles(void)
{
    static const double PERCENT[] = {1, 10, 25, 50, 75, 90, 95, 99, 99.9, 99.99};
    for (size_t i = 0; i < sizeof PERCENT / sizeof *PERCENT; i++)
        printf("\"p%g_ms\":%.3f,", PERCENT[i], histogram_ms(&delays, PERCENT[i] / 100));
}

static int report_load(const struct moment *a, const struct moment *b, uint64_t lost)
{
    double window = (double)(b->time - a->time) / 1e9;
    double deliveries = (double)(b->tally.deliveries - a->tally.deliveries);
    double server = b->server - a->server, own = b->own - a->own, others = b->all - a->all - server - own;
    double messages = scenario == FANOUT ? deliveries / count
                      : scenario == ALONE ? deliveries : (double)(b->tally.from_others - a->tally.from_others);
    putchar('{');
    report_quantiles();
    printf("\"messages_per_s\":%.1f,\"deliveries_per_s\":%.1f,\"max_ms\":%.3f,"
           "\"frame_bytes\":%.1f,\"deliveries_per_read\":%.2f,\"server_cpu\":%.3f,\"server_us_per_delivery\":%.3f,"
           "\"load_cpu\":%.3f,\"others_cpu\":%.3f,\"checked\":%llu,\"sent\":%llu,\"lost\":%llu,\"gaps\":%llu,\"duplicates\":%llu,\"damaged\":%llu,"
           "\"refused\":%llu,\"closed\":%llu,\"pings\":%llu,\"behind\":%llu}\n",
           messages / window, deliveries / window, (double)delays.highest / 1e6,
           (double)(b->tally.bytes - a->tally.bytes) / (deliveries ? deliveries : 1),
           deliveries / (double)(b->tally.reads - a->tally.reads + 1), server / window,
           server / (deliveries ? deliveries : 1) * 1e6, own / window,
           others > 0 ? others / window : 0, (unsigned long long)tally.deliveries, (unsigned long long)tally.sent,
           (unsigned long long)lost, (unsigned long long)tally.gaps, (unsigned long long)tally.duplicates,
           (unsigned long long)tally.damaged, (unsigned long long)tally.refused, (unsigned long long)tally.closed,
           (unsigned long long)tally.pings, (unsigned long long)behind);
    return lost || tally.gaps || tally.duplicates || tally.damaged || tally.refused || tally.closed
           || tally.deliveries != due();
}

/* Say on standard output that the measured time begins or ends. */
static struct moment moment_said(const char *what)
{
    puts(what);
    fflush(stdout);
    return moment_now();
}

static int run_load(void)
{
    poll_for(SECOND / 2); /* whatever connecting has set off may settle */
    double next = (double)now_ns();
    replying = !rate;
    for (uint64_t n = scenario == ALONE ? in_flight : scenario == PAIRS; n && !rate; n--)
        for (int i = 0; i < count; i++)
            say(&connections[i], now_ns());
    top_up();
    if (hampered) {
        sipping = slow;
        connection_pause(hampered, 1);
    }
    load_until(now_ns() + (uint64_t)(warm_up * 1e9), &next);
    struct moment begin = moment_said("begin");
    measuring = 1;
    load_until(begin.time + (uint64_t)(seconds * 1e9), &next);
    measuring = replying = 0;
    struct moment end = moment_said("end");
    if (hampered) {
        behind = tally.sent - hampered->others;
        sipping = 0;
        connection_pause(hampered, 0);
    }
    return report_load(&begin, &end, await_rest());
}

static int run_connections(void)
{
    struct moment begin = moment_now();
    connect_all();
    struct moment end = moment_now();
    double took = (double)(end.time - begin.time) / 1e9;
    printf("{\"connections\":%d,\"seconds\":%.3f,\"connections_per_s\":%.0f,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f,"
           "\"server_cpu\":%.3f,\"load_cpu\":%.3f}\n",
           count, took, count / took, histogram_ms(&connects, .5), histogram_ms(&connects, .99), (double)connects.highest / 1e6,
           (end.server - begin.server) / took, (end.own - begin.own) / took);
    fflush(stdout);
    if (scenario == IDLE) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLHUP};
        int input = epoll_create1(EPOLL_CLOEXEC);
        epoll_ctl(input, EPOLL_CTL_ADD, STDIN_FILENO, &event);
        while (epoll_wait(input, &event, 1, 0) == 0)
            poll_events(SECOND / 20);
    }
    return tally.closed || tally.damaged || tally.refused || tally.deliveries;
}

static void read_options(int argc, char **argv)
{
    enum { SCENARIO, PROTOCOL, MEMBERS, IN_FLIGHT, RATE, SECONDS, WARM_UP, TEXT_BYTES, HANDSHAKES, SERVER_PID, HAMPER };
    static const struct option options[] = {
        {"scenario", 1, 0, SCENARIO},     {"protocol", 1, 0, PROTOCOL},     {"members", 1, 0, MEMBERS},
        {"in-flight", 1, 0, IN_FLIGHT},   {"rate", 1, 0, RATE},             {"seconds", 1, 0, SECONDS},
        {"warm-up", 1, 0, WARM_UP},       {"text-bytes", 1, 0, TEXT_BYTES}, {"handshakes", 1, 0, HANDSHAKES},
        {"server-pid", 1, 0, SERVER_PID}, {"hamper", 1, 0, HAMPER},       {0, 0, 0, 0}};
    const char *members = NULL, *hamper = "";
    dialect = dialect_named("seed");
    scenario = -1;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) >= 0;)
        switch (option) {
        case SCENARIO:
            for (int i = 0; i < SCENARIO_COUNT; i++)
                if (!strcmp(optarg, SCENARIOS[i]))
                    scenario = (enum scenario)i;
            break;
        case PROTOCOL: dialect = dialect_named(optarg); break;
        case MEMBERS: members = optarg; break;
        case IN_FLIGHT: in_flight = strtoull(optarg, NULL, 10); break;
        case RATE: rate = atof(optarg); break;
        case SECONDS: seconds = atof(optarg); break;
        case WARM_UP: warm_up = atof(optarg); break;
        case TEXT_BYTES: text_bytes = strtoull(optarg, NULL, 10); break;
        case HANDSHAKES: handshakes = atoi(optarg); break;
        case SERVER_PID: server_pids = optarg; break;
        case HAMPER: hamper = optarg; break;
        default: fail("see the top of bench/load.c for what can be asked");
        }
    if ((int)scenario < 0 || (scenario == RELAY && !rate) || (*hamper && !(scenario == FANOUT && rate)) || !members || text_bytes < 30 || text_bytes > 60000)
        fail("needs --scenario fanout|pairs|relay|alone|idle|storm, --members FILE, for relay and --hamper --rate; --text-bytes is 30 to 60000");
    read_members(members);
    if (*hamper) {
        hampered = &connections[count - 1];
        hampered->hampered = 1;
        slow = !strcmp(hamper, "slow");
    }
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    struct rlimit files;
    prctl(PR_SET_TIMERSLACK, 1); /* ns: a message leaves when it is due */
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    connections_open(epoll);
    if (scenario == IDLE || scenario == STORM)
        return run_connections();
    connect_all();
    int failed = run_load();
    if (failed)
        fputs("load: the run has failed: not every message came exactly once, in order and unharmed\n", stderr);
    return failed;
}
