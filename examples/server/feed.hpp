#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/drover.hpp>

/// What the page shows, as server-sent events: the pool's events as they happen, and its figures once a second while
/// somebody looks.
class Feed {
 public:
  explicit Feed(const asio::any_io_executor& executor)
      : changed_(executor, asio::steady_timer::time_point::max()), executor_(executor) {}

  class Subscriber {
   public:
    explicit Subscriber(const asio::any_io_executor& executor)
        : changed_(executor, asio::steady_timer::time_point::max()) {}

    /// What has happened since. Empty: the reader is too slow.
    asio::awaitable<std::string> next() {
      while (pending_.empty() && !too_slow_) co_await wait(changed_);
      co_return too_slow_ ? std::string() : std::exchange(pending_, {});
    }

   private:
    friend Feed;
    static constexpr std::size_t max_pending = std::size_t{1} << 20;

    void add(const std::string& text) {
      too_slow_ = too_slow_ || text.size() > max_pending - pending_.size();
      if (!too_slow_) pending_ += text;
      changed_.cancel();
    }

    asio::steady_timer changed_;
    std::string pending_;
    bool too_slow_ = false;
  };

  /// Begins with the latest events. It is subscribed as long as it exists.
  std::shared_ptr<Subscriber> subscribe() {
    auto subscriber = std::make_shared<Subscriber>(executor_);
    for (const std::string& text : history_) subscriber->add(text);
    subscribers_.push_back(subscriber);
    changed_.cancel();
    return subscriber;
  }

  void add(const drover::Event& event) {
    history_.push_back(message("worker", describe(event)));
    if (history_.size() > 200) history_.pop_front();
    publish(history_.back());
  }

  /// A request was answered that a worker was needed for.
  void answered(drover::Duration took, bool failed) {
    latest_.record(took);
    if (failed) ++latest_failures_;
  }

  /// Reports the figures until it is cancelled.
  asio::awaitable<void> report(drover::WorkerPool& pool) {
    asio::steady_timer second(executor_);
    for (;;) {
      if (!has_subscribers()) {
        co_await wait(changed_);
        latest_ = {};
        latest_failures_ = 0;
        continue;
      }
      publish(
          message("figures", describe(pool.stats(), std::exchange(latest_, {}), std::exchange(latest_failures_, 0))));
      second.expires_after(std::chrono::seconds(1));
      co_await second.async_wait(asio::use_awaitable);
    }
  }

 private:
  static asio::awaitable<void> wait(asio::steady_timer& changed) {
    std::error_code woken;
    co_await changed.async_wait(asio::redirect_error(asio::use_awaitable, woken));
  }

  bool has_subscribers() {
    std::erase_if(subscribers_, [](const auto& weak) { return weak.expired(); });
    return !subscribers_.empty();
  }

  void publish(const std::string& text) {
    for (const auto& weak : subscribers_)
      if (const auto subscriber = weak.lock()) subscriber->add(text);
  }

  static std::string message(std::string_view event, const std::string& json) {
    return "event: " + std::string(event) + "\ndata: " + json + "\n\n";
  }

  static std::string quoted(std::string_view text) {
    std::string result = "\"";
    for (const char c : text) {
      char escape[8];
      if (static_cast<unsigned char>(c) < 0x20) {
        std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
        result += escape;
        continue;
      }
      if (c == '"' || c == '\\') result += '\\';
      result += c;
    }
    return result + '"';
  }

  static std::string microseconds(drover::Duration time) {
    return std::to_string(std::chrono::duration_cast<std::chrono::microseconds>(time).count());
  }

  static std::string describe(const drover::Event& event) {
    const auto ago = drover::Clock::now() - event.at;
    const auto at = std::chrono::system_clock::now().time_since_epoch() - ago;
    return "{\"at\":" + std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(at).count()) +
           ",\"bad\":" +
           ((event.kind == drover::Event::Kind::exited && !event.expected) ||
                    event.kind == drover::Event::Kind::gave_up || event.kind == drover::Event::Kind::kill_sent
                ? "true"
                : "false") +
           ",\"text\":" + quoted(event.to_string()) + '}';
  }

  static std::string describe(const drover::Histogram& times) {
    return "{\"p50\":" + microseconds(times.quantile(0.5)) + ",\"p99\":" + microseconds(times.quantile(0.99)) + '}';
  }

  static std::string describe(const drover::WorkerFigures& worker) {
    const char* state = worker.has_successor ? "draining" : worker.is_successor ? "successor" : "starting";
    if (worker.ready && !worker.has_successor) state = worker.in_flight != 0 ? "busy" : "idle";
    return "{\"slot\":" + std::to_string(worker.slot) + ",\"pid\":" + std::to_string(worker.pid) + ",\"state\":\"" +
           state + "\",\"calls\":" + std::to_string(worker.calls) + ",\"routine\":" + quoted(worker.oldest_routine) +
           ",\"oldest\":" + microseconds(worker.oldest_call) + ",\"rss\":" + std::to_string(worker.rss) +
           ",\"cpu\":" + microseconds(worker.cpu_time) + '}';
  }

  static std::string describe(const drover::PoolStats& stats, const drover::Histogram& latest, std::uint64_t failures) {
    const drover::WorkerDeaths& deaths = stats.deaths;
    std::string workers;
    for (const drover::WorkerFigures& worker : stats.per_worker)
      workers += (workers.empty() ? "" : ",") + describe(worker);
    return "{\"ready\":" + std::to_string(stats.ready) + ",\"in_flight\":" + std::to_string(stats.in_flight) +
           ",\"queued\":" + std::to_string(stats.queued) + ",\"calls\":" + std::to_string(stats.calls) +
           ",\"restarts\":" + std::to_string(stats.restarts) + ",\"latest\":" + describe(latest) +
           ",\"answered\":" + std::to_string(latest.count()) + ",\"failed\":" + std::to_string(failures) +
           ",\"waited\":" + describe(stats.queue_time) + ",\"ran\":" + describe(stats.run_time) +
           ",\"deaths\":{\"crashed\":" + std::to_string(deaths.crashed) +
           ",\"exited\":" + std::to_string(deaths.exited) +
           ",\"killed for a call\":" + std::to_string(deaths.killed_for_call) +
           ",\"failed to start\":" + std::to_string(deaths.failed_start) +
           ",\"drained\":" + std::to_string(deaths.drained) +
           ",\"protocol errors\":" + std::to_string(deaths.protocol_error) + "},\"workers\":[" + workers + "]}";
  }

  asio::steady_timer changed_;
  asio::any_io_executor executor_;
  std::list<std::weak_ptr<Subscriber>> subscribers_;
  std::deque<std::string> history_;
  drover::Histogram latest_;  // of the last second
  std::uint64_t latest_failures_ = 0;
};
