#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include <drover/pool/histogram.hpp>
#include <drover/pool/stats.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 {
namespace detail {

/// Writes PoolStats in the text format of Prometheus, version 0.0.4: all samples of one metric together, below its HELP
/// and TYPE. Pure.
class MetricsText {
 public:
  using Pools = std::map<std::string, PoolStats>;

  static std::string of(const Pools& pools) {
    MetricsText text(pools);
    text.write_totals();
    text.write_deaths();
    text.write_histogram("drover_queue_seconds", "How long calls waited for a worker.", &PoolStats::queue_time);
    text.write_histogram("drover_run_seconds", "How long workers had calls.", &PoolStats::run_time);
    text.write_workers();
    return std::move(text.text_);
  }

  /// In double quotes.
  static std::string quoted(std::string_view value) {
    std::string text = "\"";
    for (const char c : value) {
      if (c == '\n') {
        text += "\\n";
        continue;
      }
      if (c == '\\' || c == '"') text += '\\';
      text += c;
    }
    return text + '"';
  }
  /// Exactly, and independent of the locale.
  static std::string seconds(Duration duration) {
    const std::int64_t ns = std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
    constexpr std::int64_t a_second = 1'000'000'000;
    std::string text = std::to_string(ns / a_second);
    std::string fraction = std::to_string(a_second + ns % a_second);
    fraction[0] = '.';
    fraction.erase(fraction.find_last_not_of('0') + 1);
    return fraction == "." ? text : text + fraction;
  }

 private:
  explicit MetricsText(const Pools& pools) : pools_(pools) {}

  void begin(std::string_view name, std::string_view type, std::string_view help) {
    text_.append("# HELP ").append(name).append(" ").append(help).append("\n");
    text_.append("# TYPE ").append(name).append(" ").append(type).append("\n");
  }
  void sample(std::string_view name, std::string_view labels, std::string_view value) {
    text_.append(name).append("{").append(labels).append("} ").append(value).append("\n");
  }
  static std::string label(std::string_view name, std::string_view value) {
    return std::string(name) + "=" + quoted(value);
  }

  /// `value`: of PoolStats to a number.
  template <class F>
  void write(std::string_view name, std::string_view type, std::string_view help, F value) {
    begin(name, type, help);
    for (const auto& [pool, stats] : pools_) sample(name, label("pool", pool), std::to_string(value(stats)));
  }
  void write_totals() {
    using Stats = const PoolStats&;
    write("drover_calls_total", "counter", "Calls, with those that were refused.", [](Stats s) { return s.calls; });
    write("drover_calls_in_flight", "gauge", "Calls that a worker runs.", [](Stats s) { return s.in_flight; });
    write("drover_calls_queued", "gauge", "Calls that wait for a worker.", [](Stats s) { return s.queued; });
    write("drover_workers", "gauge", "Worker processes that exist.", [](Stats s) { return s.workers; });
    write("drover_workers_ready", "gauge", "Workers that take calls.", [](Stats s) { return s.ready; });
    write("drover_pool_size", "gauge", "Workers that the pool keeps.", [](Stats s) { return s.size; });
    write("drover_pool_max_size", "gauge", "Workers that the pool may have.", [](Stats s) { return s.max_size; });
    write("drover_worker_restarts_total", "counter", "Workers that replaced another one.",
          [](Stats s) { return s.restarts; });
  }

  void write_deaths() {
    using Named = std::pair<const char*, std::uint64_t WorkerDeaths::*>;
    static constexpr std::array<Named, 8> causes{{{"crashed", &WorkerDeaths::crashed},
                                                  {"exited", &WorkerDeaths::exited},
                                                  {"drained", &WorkerDeaths::drained},
                                                  {"killed_for_call", &WorkerDeaths::killed_for_call},
                                                  {"stalled", &WorkerDeaths::stalled},
                                                  {"failed_start", &WorkerDeaths::failed_start},
                                                  {"protocol_error", &WorkerDeaths::protocol_error},
                                                  {"unknown", &WorkerDeaths::unknown}}};
    begin("drover_worker_deaths_total", "counter", "Ends of workers, by cause.");
    for (const auto& [pool, stats] : pools_)
      for (const auto& [cause, member] : causes)
        sample("drover_worker_deaths_total", label("pool", pool) + "," + label("cause", cause),
               std::to_string(stats.deaths.*member));
  }

  void write_histogram(const std::string& name, std::string_view help, Histogram PoolStats::* member) {
    begin(name, "histogram", help);
    for (const auto& [pool, stats] : pools_) {
      const Histogram& histogram = stats.*member;
      const std::string labels = label("pool", pool);
      const std::string count = std::to_string(histogram.count());
      for (const Duration bound : Histogram::bounds())
        sample(name + "_bucket", labels + "," + label("le", seconds(bound)),
               std::to_string(histogram.count_at_most(bound)));
      sample(name + "_bucket", labels + "," + label("le", "+Inf"), count);
      sample(name + "_sum", labels, seconds(histogram.sum()));
      sample(name + "_count", labels, count);
    }
  }

  /// `value`: of WorkerFigures to a text. A worker that has a successor is left out: the two have the same labels.
  template <class F>
  void write_of_workers(std::string_view name, std::string_view type, std::string_view help, F value) {
    begin(name, type, help);
    for (const auto& [pool, stats] : pools_)
      for (const WorkerFigures& worker : stats.per_worker) {
        if (worker.has_successor || worker.is_successor || worker.is_spare) continue;
        const std::string labels =
            label("pool", pool) + "," + label("slot", std::to_string(worker.slot)) + "," + label("worker", worker.name);
        sample(name, labels, value(worker));
      }
  }
  void write_workers() {
    using Worker = const WorkerFigures&;
    write_of_workers("drover_worker_calls_total", "counter", "Calls that the worker in this slot has answered.",
                     [](Worker w) { return std::to_string(w.calls); });
    write_of_workers("drover_worker_in_flight", "gauge", "Calls that the worker runs.",
                     [](Worker w) { return std::to_string(w.in_flight); });
    write_of_workers("drover_worker_oldest_call_seconds", "gauge", "For how long the worker has run its oldest call.",
                     [](Worker w) { return seconds(w.oldest_call); });
    write_of_workers("drover_worker_resident_bytes", "gauge", "Resident memory of the worker.",
                     [](Worker w) { return std::to_string(w.rss); });
    write_of_workers("drover_worker_cpu_seconds_total", "counter", "User and system time of the worker.",
                     [](Worker w) { return seconds(w.cpu_time); });
  }

  const Pools& pools_;
  std::string text_;
};

}  // namespace detail

DROVER_INLINE std::string metrics_text(const std::map<std::string, PoolStats>& pools) {
  return detail::MetricsText::of(pools);
}

}}  // namespace drover::v1
