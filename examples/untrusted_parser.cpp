// Parses every file of a folder with a parser that cannot be trusted: on some inputs it crashes, hangs, leaks or exits.
// The parser runs in workers, so that it cannot harm this program, which prints a verdict for each file.
//
// The parser reads key=value lines. For this example it is sabotaged: a file whose name begins with crash, abort, hang,
// leak or exit makes it do that.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <sys/resource.h>
#include <vector>

#include <drover/drover.hpp>

namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

// In the workers ------------------------------------------------------------------------------------------------------

void sabotage(const std::string& name) {
  if (name.starts_with("crash")) {
    volatile int* nowhere = nullptr;
    *nowhere = 1;
  }
  if (name.starts_with("abort")) std::abort();
  if (name.starts_with("exit")) std::exit(0);
  if (name.starts_with("hang"))
    for (volatile bool forever = true; forever;) {
    }
  if (name.starts_with("leak"))
    for (std::vector<std::unique_ptr<char[]>> hoard;;)
      hoard.push_back(std::make_unique_for_overwrite<char[]>(std::size_t{1} << 24));
}

std::size_t parse(std::string name, std::string text) {
  sabotage(name);
  std::size_t pairs = 0, line = 1;
  for (std::size_t begin = 0; begin < text.size(); ++line) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string content = text.substr(begin, end - begin);
    if (!content.empty() && content.find('=') == std::string::npos)
      throw std::invalid_argument("line " + std::to_string(line) + " has no '='");
    if (!content.empty()) ++pairs;
    begin = end + 1;
  }
  return pairs;
}

/// Limits the worker's memory, so that a leak ends in std::bad_alloc. AddressSanitizer and ThreadSanitizer reserve more
/// than that: build without them.
void limit_memory() {
  constexpr rlim_t most = rlim_t{512} << 20;
  const rlimit limit{most, most};
  ::setrlimit(RLIMIT_AS, &limit);
}

// In the parent -------------------------------------------------------------------------------------------------------

struct Verdict {
  fs::path file;
  std::string text;
  drover::Duration took{};
};

std::string describe(const drover::Error& error) {
  if (error.code() == drover::Errc::deadline_exceeded) return "hung";
  if (error.code() == drover::Errc::worker_exited && error.exit_status()) {
    const drover::ExitStatus status = *error.exit_status();
    if (status.kind == drover::ExitStatus::Kind::signaled) return "crashed: " + status.to_string();
    return "ended its process: " + status.to_string();
  }
  return error.what();
}

asio::awaitable<void> examine(drover::WorkerPool& pool, Verdict& verdict) {
  const auto begin = drover::Clock::now();
  try {
    std::ifstream file(verdict.file, std::ios::binary);
    if (!file) throw std::runtime_error("cannot be read");
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    drover::CallOptions options;
    options.deadline = 3s;
    options.kill_after = 100ms;
    const auto pairs = co_await pool.call<std::size_t>(options, "parse", verdict.file.filename().string(), text);
    verdict.text = "ok: " + std::to_string(pairs) + " pairs";
  } catch (const drover::RemoteError& error) {
    verdict.text = error.type() == "std::bad_alloc" ? "out of memory" : std::string("refused: ") + error.what();
  } catch (const drover::Error& error) {
    verdict.text = describe(error);
  } catch (const std::runtime_error& error) {
    verdict.text = error.what();
  }
  verdict.took = drover::Clock::now() - begin;
}

asio::awaitable<void> examine_all(std::vector<Verdict>& verdicts) {
  drover::PoolOptions options{.size = 2};
  options.worker.name = "parser";
  options.worker.shutdown_grace = 500ms;
  options.restart = {.max_restarts = verdicts.size(), .within = 60s, .backoff = 0s, .max_backoff = 0s};
  co_await drover::with_pool(std::move(options), [&verdicts](drover::WorkerPool& pool) -> asio::awaitable<void> {
    for (Verdict& verdict : verdicts) {
      co_await examine(pool, verdict);
      std::printf("%-24s %-48s %7.1f ms\n", verdict.file.filename().c_str(), verdict.text.c_str(),
                  std::chrono::duration<double, std::milli>(verdict.took).count());
    }
  });
}

}  // namespace

int main(int argc, char** argv) {
  drover::Routines routines;
  routines.add("parse", parse);
  if (drover::in_worker()) {
    limit_memory();
    return drover::serve(routines);
  }
  if (argc != 2 || !fs::is_directory(argv[1])) {
    std::fprintf(stderr, "usage: untrusted_parser FOLDER\n");
    return 2;
  }
  std::vector<Verdict> verdicts;
  for (const auto& entry : fs::directory_iterator(argv[1]))
    if (entry.is_regular_file()) verdicts.push_back({.file = entry.path(), .text = {}, .took = {}});
  std::sort(verdicts.begin(), verdicts.end(), [](const Verdict& a, const Verdict& b) { return a.file < b.file; });
  return drover::run_main(examine_all(verdicts));
}
