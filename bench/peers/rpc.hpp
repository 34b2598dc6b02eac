#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

#include "common.hpp"

/// Calls between two processes. Each library provides a server and a client. The cores, the duration and the counting
/// are the same for all libraries.
namespace peers {

inline constexpr std::size_t small_payload = 64;  ///< bytes of the argument of a call, and of its result
inline constexpr std::size_t in_flight = 64;      ///< concurrent calls in T-8

/// The path at which the only server listens.
inline std::string socket_path() { return (temporary_folder() / "socket").string(); }

/// A copy of this program that serves, pinned to one core. The constructor returns once it listens. The destructor
/// kills it.
class Server {
 public:
  Server(const std::string& peer, const std::string& path, int core) {
    auto [reading, writing] = bench::pipe_pair();
    bench::FileActions actions;
    actions.duplicate(writing.get(), 1);
    std::vector<std::string> words = {
        "/proc/self/exe", "--internal", "serve", peer, path, std::to_string(core), std::to_string(::getpid())};
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    pid_ = bench::spawn_process(words[0].c_str(), arguments.data(), &actions);
    writing.reset();
    if (!bench::receive_byte(reading.get())) throw std::runtime_error("the server exited before it listened");
  }
  ~Server() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

 private:
  pid_t pid_ = 0;
};

/// For servers: lets the constructor of Server return.
inline void report_listening() { bench::send_byte(1); }

/// The role of a server. serve(peer, path) runs until the process is killed.
inline Role serving(std::function<void(const std::string& peer, const std::string& path)> serve) {
  return [serve](const std::vector<std::string>& arguments) {
    end_with_parent(static_cast<pid_t>(std::stol(arguments.at(3))));
    const int core = std::stoi(arguments.at(2));
    pin(core, core);
    serve(arguments.at(0), arguments.at(1));
    return 0;
  };
}

/// Measures the time of each call, for clients that call sequentially. A warm-up of a fifth of the time comes first.
class Latency {
 public:
  explicit Latency(double seconds) : last_(Clock::now()) {
    values_.reserve(1 << 20);
    measuring_from_ = last_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds / 5));
    end_ = measuring_from_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  }

  /// Reports the end of a call. If it returns true, the next call begins now.
  bool next() {
    const auto now = Clock::now();
    if (now > measuring_from_) values_.push_back(microseconds(now - last_));
    last_ = now;
    return now < end_ || values_.size() < 5;
  }

  Result result() { return {median(std::move(values_)), "us"}; }

 private:
  Clock::time_point last_, measuring_from_, end_;
  std::vector<double> values_;
};

/// Counts calls that complete on any thread while a fixed number of them is in flight. Reads the clock once in 32
/// calls. A warm-up of a fifth of the time comes first.
class Rate {
 public:
  explicit Rate(double seconds) : start_(Clock::now()), seconds_(seconds) {}

  /// Reports the end of a call. If it returns true, the caller begins another one.
  bool next() {
    const std::uint64_t number = count_.fetch_add(1, std::memory_order_relaxed) + 1;
    if (number % 32 == 0) read_clock(number);
    return !done_.load(std::memory_order_relaxed);
  }

  Result result() const {
    const double taken = std::chrono::duration<double>(last_ - first_).count();
    return {static_cast<double>(last_number_ - first_number_) / taken, "1/s"};
  }

 private:
  void read_clock(std::uint64_t number) {
    const std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    const double elapsed = std::chrono::duration<double>(now - start_).count();
    if (first_number_ == 0 && elapsed >= seconds_ / 5) {
      first_number_ = number;
      first_ = now;
    } else if (first_number_ != 0 && number > first_number_ && !done_ && elapsed >= seconds_ * 1.2) {
      last_number_ = number;
      last_ = now;
      done_ = true;
    }
  }

  std::atomic<std::uint64_t> count_{0};
  std::atomic<bool> done_{false};
  std::mutex mutex_;
  Clock::time_point start_, first_, last_;
  double seconds_;
  std::uint64_t first_number_ = 0, last_number_ = 0;
};

/// Calls once(), which sends `bytes` and waits until the server has received them, again and again.
template <class Once>
Result throughput(double seconds, std::size_t bytes, Once once) {
  const Result taken = median_of(seconds, [&] {
    const auto start = Clock::now();
    once();
    return microseconds(Clock::now() - start);
  });
  return {static_cast<double>(bytes) / (1 << 30) / (taken.value / 1e6), "GiB/s"};
}

/// The measurements that the client of a library offers. Each function gets the path of the server's socket.
struct Client {
  std::function<Result(const std::string& path, double seconds)> latency, rate;
  std::function<Result(const std::string& path, double seconds, std::size_t bytes)> transfer;
};

/// T-7, T-8 and T-9 on one core and on two, as far as the client can measure them.
inline void add_rpc(std::vector<Figure>& figures, const std::string& peer, const std::string& note,
                    const Client& client) {
  const auto add = [&](const std::string& name, auto measure) {
    for (const bool two : {false, true})
      figures.push_back({name + (two ? "/2c" : "/1c"), peer, note, [=](double seconds) {
                           const Server server(peer, socket_path(), two ? cores().second : cores().first);
                           pin(cores().first, cores().first);  // before the library starts its threads
                           return measure(socket_path(), seconds);
                         }});
  };
  if (client.latency) add("T-7", client.latency);
  if (client.rate) add("T-8", client.rate);
  if (!client.transfer) return;
  for (const auto& [size, bytes] : {std::pair("1MiB", std::size_t{1} << 20), std::pair("64MiB", std::size_t{64} << 20)})
    add(std::string("T-9/") + size,
        [transfer = client.transfer, amount = bytes](const std::string& path, double seconds) {
          return transfer(path, seconds, amount);
        });
}

}  // namespace peers
