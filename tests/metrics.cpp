// The text that Prometheus reads.
#include <chrono>
#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>

#include <drover/pool/stats.hpp>

#include "support/metrics_parser.hpp"

namespace {

using namespace std::chrono_literals;
using drover::Duration;
using drover::Histogram;
using drover::metrics_text;
using drover::PoolStats;
using drover::WorkerFigures;
using support::Labels;
using support::Metric;
using support::MetricsParser;

PoolStats busy_pool() {
  PoolStats stats{.workers = 3,
                  .ready = 2,
                  .size = 8,
                  .max_size = 9,
                  .in_flight = 1,
                  .queued = 5,
                  .calls = 1200,
                  .crashes = 4,
                  .restarts = 6};
  stats.deaths = {.crashed = 1,
                  .exited = 2,
                  .drained = 3,
                  .killed_for_call = 4,
                  .stalled = 8,
                  .failed_start = 5,
                  .protocol_error = 6,
                  .unknown = 7};
  for (const Duration time : {Duration(0ns), Duration(8192ns), Duration(8193ns), Duration(1500ms), Duration(30h)}) {
    stats.queue_time.record(time);
    stats.run_time.record(2 * time);
  }
  const WorkerFigures worker{.slot = 0,
                             .pid = 17,
                             .name = "hasher",
                             .ready = true,
                             .calls = 99,
                             .in_flight = 1,
                             .oldest_call = 1250ms,
                             .oldest_routine = "hash",
                             .rss = 4096,
                             .cpu_time = 70ms};
  stats.per_worker = {worker, worker, worker};
  stats.per_worker[1].has_successor = true;
  stats.per_worker[1].calls = 1000;
  stats.per_worker[2].slot = 7;
  stats.per_worker[2].calls = 3;
  return stats;
}

/// The value of a sample. Fails the test if there is none.
double value_of(const std::map<std::string, Metric>& metrics, const std::string& metric, const Labels& labels,
                const std::string& suffix = "") {
  const auto found = metrics.find(metric);
  if (found == metrics.end()) {
    ADD_FAILURE() << "there is no metric " << metric;
    return -1;
  }
  const auto sample = found->second.samples.find({metric + suffix, labels});
  if (sample == found->second.samples.end()) {
    ADD_FAILURE() << metric << " has no such sample";
    return -1;
  }
  return sample->second;
}

TEST(Metrics, HaveEachFigureOfThePool) {
  const auto metrics = MetricsParser::parse(metrics_text({{"hashers", busy_pool()}}));
  const Labels pool{{"pool", "hashers"}};
  EXPECT_EQ(value_of(metrics, "drover_calls_total", pool), 1200);
  EXPECT_EQ(value_of(metrics, "drover_calls_in_flight", pool), 1);
  EXPECT_EQ(value_of(metrics, "drover_calls_queued", pool), 5);
  EXPECT_EQ(value_of(metrics, "drover_workers", pool), 3);
  EXPECT_EQ(value_of(metrics, "drover_workers_ready", pool), 2);
  EXPECT_EQ(value_of(metrics, "drover_pool_size", pool), 8);
  EXPECT_EQ(value_of(metrics, "drover_pool_max_size", pool), 9);
  EXPECT_EQ(value_of(metrics, "drover_worker_restarts_total", pool), 6);
  const std::map<std::string, int> deaths{{"crashed", 1},         {"exited", 2},       {"drained", 3},
                                          {"killed_for_call", 4}, {"failed_start", 5}, {"protocol_error", 6},
                                          {"unknown", 7},         {"stalled", 8}};
  for (const auto& [cause, count] : deaths)
    EXPECT_EQ(value_of(metrics, "drover_worker_deaths_total", {{"pool", "hashers"}, {"cause", cause}}), count) << cause;
  EXPECT_EQ(metrics.at("drover_worker_deaths_total").samples.size(), deaths.size());
  EXPECT_EQ(metrics.at("drover_workers").type, "gauge");
  EXPECT_EQ(metrics.at("drover_calls_total").type, "counter");
}

TEST(Metrics, HaveHistogramsWithExactBuckets) {
  const PoolStats stats = busy_pool();
  const auto metrics = MetricsParser::parse(metrics_text({{"p", stats}}));
  const Labels pool{{"pool", "p"}};
  const auto at_most = [](std::string bound) { return Labels{{"pool", "p"}, {"le", std::move(bound)}}; };
  const std::string queue = "drover_queue_seconds", run = "drover_run_seconds";
  EXPECT_EQ(value_of(metrics, queue, at_most("0.000008192"), "_bucket"), 2);
  EXPECT_EQ(value_of(metrics, queue, at_most("0.000016384"), "_bucket"), 3);
  EXPECT_EQ(value_of(metrics, queue, at_most("1.073741824"), "_bucket"), 3);
  EXPECT_EQ(value_of(metrics, queue, at_most("2.147483648"), "_bucket"), 4);
  EXPECT_EQ(value_of(metrics, queue, at_most("68.719476736"), "_bucket"), 4);
  EXPECT_EQ(value_of(metrics, queue, at_most("+Inf"), "_bucket"), 5);
  EXPECT_EQ(value_of(metrics, queue, pool, "_count"), 5);
  EXPECT_DOUBLE_EQ(value_of(metrics, queue, pool, "_sum"), 108001.500016385);
  EXPECT_EQ(value_of(metrics, run, at_most("0.000016384"), "_bucket"), 2);
  EXPECT_DOUBLE_EQ(value_of(metrics, run, pool, "_sum"), 2 * 108001.500016385);
  EXPECT_EQ(metrics.at(run).samples.size(), Histogram::bounds().size() + 3);
}

// Beside a worker that drains there is another one with the same labels, and a series may come once only.
TEST(Metrics, HaveTheWorkerOfEachSlotOnce) {
  const auto metrics = MetricsParser::parse(metrics_text({{"p", busy_pool()}}));
  const auto slot = [](std::string number) {
    return Labels{{"pool", "p"}, {"slot", std::move(number)}, {"worker", "hasher"}};
  };
  EXPECT_EQ(metrics.at("drover_worker_calls_total").samples.size(), 2u);
  EXPECT_EQ(value_of(metrics, "drover_worker_calls_total", slot("0")), 99);
  EXPECT_EQ(value_of(metrics, "drover_worker_calls_total", slot("7")), 3);
  EXPECT_EQ(value_of(metrics, "drover_worker_in_flight", slot("0")), 1);
  EXPECT_EQ(value_of(metrics, "drover_worker_oldest_call_seconds", slot("0")), 1.25);
  EXPECT_EQ(value_of(metrics, "drover_worker_resident_bytes", slot("0")), 4096);
  EXPECT_EQ(value_of(metrics, "drover_worker_cpu_seconds_total", slot("0")), 0.07);
}

TEST(Metrics, OfSeveralPoolsAreOneText) {
  PoolStats idle{.calls = 3};
  const auto metrics = MetricsParser::parse(metrics_text({{"a", busy_pool()}, {"b", idle}, {"", idle}}));
  EXPECT_EQ(value_of(metrics, "drover_calls_total", {{"pool", "a"}}), 1200);
  EXPECT_EQ(value_of(metrics, "drover_calls_total", {{"pool", "b"}}), 3);
  EXPECT_EQ(value_of(metrics, "drover_calls_total", {{"pool", ""}}), 3);
  EXPECT_EQ(value_of(metrics, "drover_run_seconds", {{"pool", "b"}}, "_count"), 0);
}

TEST(Metrics, EscapeTheValuesOfLabels) {
  PoolStats stats = busy_pool();
  const std::string nasty = "a\"b\\c\nd} 1\n# {\\n";
  for (WorkerFigures& worker : stats.per_worker) worker.name = nasty;
  const auto metrics = MetricsParser::parse(metrics_text({{nasty, stats}}));
  EXPECT_EQ(value_of(metrics, "drover_calls_total", {{"pool", nasty}}), 1200);
  EXPECT_EQ(value_of(metrics, "drover_worker_calls_total", {{"pool", nasty}, {"slot", "7"}, {"worker", nasty}}), 3);
}

TEST(Metrics, SecondsAreExact) {
  const auto seconds = [](Duration duration) {
    PoolStats stats;
    stats.per_worker = {{.name = "w", .oldest_call = duration}};
    const std::string text = metrics_text({{"p", stats}});
    const std::string sample = "\ndrover_worker_oldest_call_seconds{pool=\"p\",slot=\"0\",worker=\"w\"} ";
    const std::size_t begin = text.find(sample) + sample.size();
    return text.substr(begin, text.find('\n', begin) - begin);
  };
  EXPECT_EQ(seconds(0ns), "0");
  EXPECT_EQ(seconds(1ns), "0.000000001");
  EXPECT_EQ(seconds(1s), "1");
  EXPECT_EQ(seconds(100s), "100");
  EXPECT_EQ(seconds(1500ms), "1.5");
  EXPECT_EQ(seconds(Duration::max()), "9223372036.854775807");
}

// The parser finds what it is to find.
TEST(Metrics, ParserRefusesWhatIsMalformed) {
  const std::string head = "# HELP x y\n# TYPE x gauge\n";
  EXPECT_EQ(MetricsParser::parse(head + "x{} 1\n").at("x").samples.size(), 1u);
  const std::string histogram = "# HELP h y\n# TYPE h histogram\n";
  for (const std::string& text :
       {std::string("x{} 1"), std::string("# HELP x y\nx{} 1\n"), head + "x{} 1", head + "x{} one\n",
        head + "x{a=\"1\"} 1\nx{a=\"1\"} 2\n", head + "x{a=1} 1\n", head + "x{a=\"\\q\"} 1\n", head + "x{a=\"1} 1\n",
        head + "y{} 1\n", head + head, histogram + "h_bucket{le=\"1\"} 1\nh_sum{} 1\nh_count{} 1\n",
        histogram + "h_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum{} 1\nh_count{} 1\n",
        histogram + "h_bucket{le=\"+Inf\"} 1\nh_sum{} 1\nh_count{} 2\n",
        std::string("# HELP x_total y\n# TYPE x_total gauge\n")})
    EXPECT_ANY_THROW(MetricsParser::parse(text)) << text;
}

}  // namespace
