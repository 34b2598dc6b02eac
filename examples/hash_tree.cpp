// sha256sum(1) for a whole tree, in worker processes. With --chaos it kills, suspends and crashes its workers at
// random, and still prints the same.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fcntl.h>
#include <memory>
#include <openssl/evp.h>
#include <optional>
#include <random>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <sys/resource.h>
#include <sys/stat.h>
#include <system_error>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/drover.hpp>

#include "hash_tree/command_line.hpp"
#include "hash_tree/report.hpp"
#include "hash_tree/walk.hpp"

namespace {

using namespace std::chrono_literals;

// In the workers ------------------------------------------------------------------------------------------------------

struct Digest {
  std::string hex;
  std::uint64_t bytes{};
};

[[noreturn]] void throw_errno() { throw std::runtime_error(std::generic_category().message(errno)); }

/// Gives up in the middle of a file when its call is cancelled or its worker is stopped.
Digest sha256(std::stop_token stop, std::string path) {
  // O_NONBLOCK: if a FIFO has replaced the file meanwhile, open() must not wait for a writer.
  const drover::UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) throw_errno();
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) throw_errno();
  if (!S_ISREG(status.st_mode)) throw std::runtime_error("no longer a regular file");

  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  if (!context || EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) != 1)
    throw std::runtime_error("OpenSSL has no SHA-256");

  Digest result;
  static std::vector<unsigned char> buffer(256 * 1024);
  for (;;) {
    if (stop.stop_requested()) throw std::runtime_error("cancelled");
    const ssize_t count = ::read(file.get(), buffer.data(), buffer.size());
    if (count == 0) break;
    if (count < 0) {
      if (errno == EINTR) continue;
      throw_errno();
    }
    EVP_DigestUpdate(context.get(), buffer.data(), static_cast<std::size_t>(count));
    result.bytes += static_cast<std::uint64_t>(count);
  }

  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  EVP_DigestFinal_ex(context.get(), digest, &length);
  for (unsigned i = 0; i < length; ++i) {
    static constexpr char digits[] = "0123456789abcdef";
    result.hex += digits[digest[i] >> 4];
    result.hex += digits[digest[i] & 15];
  }
  return result;
}

void crash() {
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  std::abort();
}

// In the parent -------------------------------------------------------------------------------------------------------

/// A line as sha256sum prints it. If the name has backslashes or line breaks, they are escaped, and the line begins
/// with a backslash.
std::string checksum_line(const std::string& hex, const std::string& path) {
  std::string name;
  for (const char c : path) {
    switch (c) {
      case '\\': name += "\\\\"; break;
      case '\n': name += "\\n"; break;
      case '\r': name += "\\r"; break;
      default: name += c;
    }
  }
  return (name.size() == path.size() ? "" : "\\") + hex + "  " + name + '\n';
}

/// Prints the lines in the order of the files, in whatever order they become ready.
class Lines {
 public:
  explicit Lines(Report& report) : report_(report) {}

  /// Whether a further file may begin. This bounds how far files get ahead of the oldest one that is not done yet.
  bool has_room() const { return waiting_.size() < 4096; }

  /// Adds a line for the next file of the walk. Returns its number.
  std::uint64_t add() {
    waiting_.emplace_back();
    return first_ + waiting_.size() - 1;
  }

  /// Sets a line; an empty one is not printed. Returns whether there is more room now.
  bool set(std::uint64_t number, std::string line) {
    waiting_[number - first_] = std::move(line);
    bool moved = false;
    for (; !waiting_.empty() && waiting_.front(); waiting_.pop_front(), ++first_, moved = true) {
      if (waiting_.front()->empty()) continue;
      report_.hide();
      std::fwrite(waiting_.front()->data(), 1, waiting_.front()->size(), stdout);
    }
    return moved;
  }

 private:
  Report& report_;
  std::deque<std::optional<std::string>> waiting_;
  std::uint64_t first_ = 0;
};

struct Job {
  explicit Job(CommandLine c)
      : command_line(std::move(c)),
        walk(command_line.directory,
             [this](const std::string& path, const std::string& what) { report.failure(path, what); }),
        lines(report) {}

  CommandLine command_line;
  Report report;
  TreeWalk walk;
  Lines lines;
  int unlucky_files = 0;   // files in their third attempt or a later one
  std::size_t exited = 0;  // workers that have exited, also by kill_after
};

/// Whether the worker failed and not the file. Another worker may then hash the file.
bool worker_failed(const std::error_code& error) {
  return error == drover::Errc::worker_exited || error == drover::Errc::connection_lost ||
         error == drover::Errc::protocol_error || error == drover::Errc::deadline_exceeded;
}

/// Returns the line of the file. If the file cannot be read, it reports that and returns an empty line.
asio::awaitable<std::string> hash_file(drover::WorkerPool& pool, Job& job, File file) {
  const bool chaos = job.command_line.chaos;
  // A suspended worker never replies. After the deadline another worker gets the file, and kill_after kills this one.
  drover::Duration deadline =
      chaos ? 250ms + std::chrono::milliseconds(file.size >> 17) : 30s + std::chrono::milliseconds(file.size >> 13);
  drover::CallOptions call{.deadline = deadline, .kill_after = chaos ? 20ms : 1s};

  for (int attempt = 1;; ++attempt) {
    if (attempt == 3) ++job.unlucky_files;
    std::string failure;
    try {
      const Digest digest = co_await pool.call<Digest>(call, "sha256", file.path);
      job.report.add(digest.bytes);
      if (attempt >= 3) --job.unlucky_files;
      co_return checksum_line(digest.hex, file.path);
    } catch (const drover::RemoteError& error) {
      failure = error.what();
    } catch (const drover::Error& error) {
      if (!worker_failed(error.code())) throw;
      if (chaos || attempt < 3) {
        deadline *= 2;
        call.deadline = deadline;
        continue;
      }
      failure = error.what();
    }
    if (attempt >= 3) --job.unlucky_files;
    job.report.failure(file.path, failure);
    co_return std::string();
  }
}

/// Hashes one file of the walk after the other, until there are none left.
asio::awaitable<void> hash_files(drover::WorkerPool& pool, Job& job, asio::steady_timer& room) {
  for (;;) {
    while (!job.lines.has_room()) {
      std::error_code woken;
      co_await room.async_wait(asio::redirect_error(asio::use_awaitable, woken));
    }
    std::optional<File> file = job.walk.next();
    if (!file) co_return;
    const std::uint64_t number = job.lines.add();
    std::string line = co_await hash_file(pool, job, *std::move(file));
    if (job.lines.set(number, std::move(line))) room.cancel();
  }
}

/// Runs `lanes` of the above concurrently. The first error, or a cancellation of the caller, cancels all of them.
asio::awaitable<void> hash_files(drover::WorkerPool& pool, Job& job, asio::steady_timer& room, std::size_t lanes) {
  using namespace asio::experimental::awaitable_operators;
  asio::awaitable<void> one = hash_files(pool, job, room);
  if (lanes == 1) {
    co_await std::move(one);
    co_return;
  }
  asio::awaitable<void> all = std::move(one) && hash_files(pool, job, room, lanes - 1);
  co_await std::move(all);
}

std::string describe(const drover::PoolStats& stats, std::size_t exited) {
  return std::to_string(stats.ready) + '/' + std::to_string(stats.workers) + " workers ready, " +
         std::to_string(stats.in_flight) + " busy, " + std::to_string(exited) + " died";
}

asio::awaitable<void> show_progress(drover::WorkerPool& pool, Job& job) {
  asio::steady_timer pause(co_await asio::this_coro::executor);
  for (;;) {
    job.report.draw(describe(pool.stats(), job.exited));
    pause.expires_after(100ms);
    co_await pause.async_wait(asio::use_awaitable);
  }
}

asio::awaitable<void> cause_chaos(drover::WorkerPool& pool, Job& job) {
  std::mt19937 random(std::random_device{}());
  asio::steady_timer pause(co_await asio::this_coro::executor);
  for (;;) {
    pause.expires_after(std::chrono::milliseconds(20 + random() % 150));
    co_await pause.async_wait(asio::use_awaitable);
    // Without pauses a large file would never be done, because each of its workers would be hit.
    if (job.unlucky_files > 0) continue;

    const std::vector<drover::WorkerMetadata> workers = pool.workers();
    if (workers.empty()) continue;
    const pid_t victim = workers[random() % workers.size()].pid;
    switch (random() % 3) {
      case 0: ::kill(victim, SIGKILL); break;
      case 1: ::kill(victim, SIGSTOP); break;
      default:
        try {
          const drover::CallOptions call{.deadline = 100ms, .kill_after = 0ms};
          co_await pool.call(call, "crash");
        } catch (const drover::Error&) {
          // The crash was intended. A real failure shows up with the next file.
        }
    }
  }
}

asio::awaitable<void> never() {
  asio::steady_timer timer(co_await asio::this_coro::executor, asio::steady_timer::time_point::max());
  co_await timer.async_wait(asio::use_awaitable);
}

asio::awaitable<void> hash_tree(drover::WorkerPool& pool, Job& job) {
  using namespace asio::experimental::awaitable_operators;
  if (Report::is_a_terminal()) {
    Report::Totals totals;
    TreeWalk counting(job.command_line.directory, [](const std::string&, const std::string&) {});
    for (; const std::optional<File> file = counting.next(); totals.bytes += file->size) ++totals.files;
    job.report.expect(totals);
  }

  asio::steady_timer room(co_await asio::this_coro::executor, asio::steady_timer::time_point::max());
  // Two for each worker, so that no worker waits for its next file.
  asio::awaitable<void> hashing = hash_files(pool, job, room, 2 * job.command_line.workers);
  asio::awaitable<void> showing = Report::is_a_terminal() ? show_progress(pool, job) : never();
  asio::awaitable<void> chaos = job.command_line.chaos ? cause_chaos(pool, job) : never();
  // Completes with the first of them, which is the hashing.
  auto all = std::move(hashing) || std::move(showing) || std::move(chaos);
  co_await std::move(all);

  const drover::PoolStats stats = pool.stats();
  job.report.finish(std::to_string(job.command_line.workers) + " workers; " + std::to_string(job.exited) + " died, " +
                    std::to_string(stats.restarts) + " were replaced");
}

}  // namespace

int main(int argc, char** argv) {
  drover::Routines routines;
  routines.add("sha256", sha256);
  routines.add("crash", crash);
  if (drover::in_worker()) return drover::serve(routines);

  Job job(parse_command_line(argc, argv));
  drover::PoolOptions options;
  options.size = job.command_line.workers;
  options.worker.name = "hasher";
  // A stop need not wait for calls in flight, because hashing has no effect that could be lost.
  options.shutdown_grace = 0ms;
  options.worker.shutdown_grace = 200ms;
  options.worker.stop_margin = 200ms;
  options.worker.term_grace = 200ms;
  options.worker.on_event = [&job](const drover::Event& event) {
    if (event.kind == drover::Event::Kind::exited) ++job.exited;
  };
  if (job.command_line.chaos) options.restart = {.max_restarts = 1'000'000, .backoff = 1ms, .max_backoff = 1ms};

  const int status = drover::run_main(drover::with_pool(
      options, [&job](drover::WorkerPool& pool) -> asio::awaitable<void> { return hash_tree(pool, job); }));
  job.report.hide();
  if (std::fflush(stdout) != 0) {
    std::perror("hash_tree: standard output");
    return 1;
  }
  if (status != 0) return status;
  return job.report.failures() == 0 ? 0 : 1;
}
