// T-21: the rate of acquires and releases on several threads, each with keys of its own, beside that of one thread.
#include <atomic>
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>

#include <drover/resource_pool.hpp>

#include "support/bench.hpp"

namespace {

using namespace std::chrono_literals;
using bench::Clock;
using Pool = drover::ResourcePool<std::string, int>;

constexpr int max_threads = 4;
constexpr std::size_t keys_of_a_thread = 1000;
constexpr std::uint64_t batch = 64;  // operations between two looks at the clock

std::vector<std::string> keys_of(int thread) {
  std::vector<std::string> keys;
  for (std::size_t i = 0; i < keys_of_a_thread; ++i)
    keys.push_back("key-" + std::to_string(thread) + "-" + std::to_string(i));
  return keys;
}

/// Rethrows what ends the coroutine. There is nobody else whom it could be reported to.
void rethrow(std::exception_ptr error) {
  if (error) std::rethrow_exception(error);
}

/// A pool in which the keys of all threads have a value, leased or idle.
class Pooled {
 public:
  explicit Pooled(bool leased)
      : pool_(context_.get_executor(), [](const std::string& key) { return static_cast<int>(key.size()); },
              {.ttl = 1h}) {
    asio::co_spawn(context_, fill(leased), rethrow);
    context_.run();
  }

  /// Acquires and releases the keys one after the other, until `stop`. Returns how often.
  std::uint64_t work(const std::vector<std::string>& keys, const std::atomic<bool>& stop) {
    std::uint64_t done = 0;
    asio::io_context context;
    asio::co_spawn(context, acquire_all(&keys, &stop, &done), rethrow);
    context.run();
    return done;
  }

 private:
  asio::awaitable<void> fill(bool leased) {
    for (int thread = 0; thread < max_threads; ++thread) {
      for (const auto& key : keys_of(thread)) {
        Pool::Lease lease = co_await pool_.acquire(std::string_view(key));
        if (leased) leases_.push_back(std::move(lease));
      }
    }
  }

  asio::awaitable<void> acquire_all(const std::vector<std::string>* keys, const std::atomic<bool>* stop,
                                    std::uint64_t* done) {
    for (std::size_t at = 0; !stop->load(std::memory_order_relaxed); *done += batch) {
      for (std::uint64_t i = 0; i < batch; ++i) {
        auto lease = co_await pool_.acquire(std::string_view((*keys)[at]));
        benchmark::DoNotOptimize(lease);
        if (++at == keys->size()) at = 0;
      }
    }
  }

  asio::io_context context_;
  Pool pool_;
  std::vector<Pool::Lease> leases_;
};

/// The least that counting references takes, with one lock for all keys: look up and count; count.
class Locked {
 public:
  explicit Locked(bool) {
    for (int thread = 0; thread < max_threads; ++thread)
      for (const auto& key : keys_of(thread)) references_[key] = 0;
  }
  std::uint64_t work(const std::vector<std::string>& keys, const std::atomic<bool>& stop) {
    std::uint64_t done = 0;
    for (std::size_t at = 0; !stop.load(std::memory_order_relaxed); done += batch) {
      for (std::uint64_t i = 0; i < batch; ++i) {
        std::size_t* count = nullptr;
        {
          const std::lock_guard held(mutex_);
          count = &references_.find(keys[at])->second;
          ++*count;
        }
        benchmark::DoNotOptimize(count);
        {
          const std::lock_guard held(mutex_);
          --*count;
        }
        if (++at == keys.size()) at = 0;
      }
    }
    return done;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<std::string, std::size_t> references_;
};

/// Operations per second of all threads together.
template <class Subject>
void threads(benchmark::State& state, int count, bool leased) {
  Subject subject(leased);
  bench::Samples samples(state);
  for ([[maybe_unused]] auto _ : state) {
    std::atomic<bool> stop{false};
    std::vector<std::uint64_t> done(static_cast<std::size_t>(count));
    std::barrier start(count + 1);
    std::vector<std::thread> running;
    for (int thread = 0; thread < count; ++thread) {
      running.emplace_back([&, thread] {
        bench::pin({thread % 2 == 0 ? bench::cores().first : bench::cores().second});
        const auto keys = keys_of(thread);
        start.arrive_and_wait();
        done[static_cast<std::size_t>(thread)] = subject.work(keys, stop);
      });
    }
    start.arrive_and_wait();
    const auto begin = Clock::now();
    std::this_thread::sleep_for(50ms);
    stop = true;
    for (auto& thread : running) thread.join();
    const auto taken = Clock::now() - begin;
    std::uint64_t all = 0;
    for (const std::uint64_t each : done) all += each;
    samples.add(state, taken, static_cast<double>(all) / bench::seconds(taken));
  }
  samples.report(state);
}

}  // namespace

int main(int argc, char** argv) {
  for (const int count : {1, 2, max_threads}) {
    for (const bool leased : {true, false}) {
      const std::string name = std::string("T-21/") + (leased ? "held/" : "idle/") + std::to_string(count);
      bench::add(name, 20, threads<Pooled>, count, leased);
    }
    bench::add("T-21/locked/" + std::to_string(count), 20, threads<Locked>, count, false);
  }
  return bench::run(argc, argv);
}
