// Parses every file of a folder with a parser that cannot be trusted: on some inputs it crashes, hangs, leaks or exits.
// The parser runs in workers, so that it cannot harm this program, which prints a verdict for each file.
//
// The parser reads key=value lines. For this example it is sabotaged: a file whose name begins with crash, abort, hang,
// leak or exit makes it do that.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <sys/resource.h>
#include <system_error>
#include <vector>

#include <drover/drover.hpp>

namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

/// What the parent calls, and the workers run.
constexpr drover::Routine<std::size_t(fs::path)> parse{"parse"};

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

std::size_t count_pairs(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot be read");
  sabotage(path.filename());
  std::size_t pairs = 0, number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.empty()) continue;
    if (line.find('=') == std::string::npos)
      throw std::invalid_argument("line " + std::to_string(number) + " has no '='");
    ++pairs;
  }
  return pairs;
}

/// Limits the worker's memory, so that a leak ends in std::bad_alloc. AddressSanitizer and ThreadSanitizer reserve more
/// than that: build without them.
void limit_memory() {
  constexpr rlim_t most = rlim_t{512} << 20;
  const rlimit limit{most, most};
  if (::setrlimit(RLIMIT_AS, &limit) != 0) throw std::system_error(errno, std::generic_category(), "setrlimit");
}

// In the parent -------------------------------------------------------------------------------------------------------

std::string verdict(drover::MapResult<std::size_t, fs::path>& result) {
  try {
    return "ok: " + std::to_string(result.value()) + " pairs";
  } catch (const drover::RemoteError& error) {
    return error.type() == "std::bad_alloc" ? "out of memory" : std::string("refused: ") + error.what();
  } catch (const drover::Error& error) {
    if (error.code() == drover::Errc::deadline_exceeded) return "hung";
    if (error.code() != drover::Errc::worker_exited || !error.exit_status()) return error.what();
    const bool crashed = error.exit_status()->kind == drover::ExitStatus::Kind::signaled;
    return (crashed ? "crashed: " : "ended its process: ") + error.exit_status()->to_string();
  }
}

asio::awaitable<void> parse_all(drover::WorkerPool& pool, const std::vector<fs::path>& files) {
  auto results = pool.map({.ordered = true, .call = {.run_for = 3s, .kill_after = 100ms}}, parse, files);
  for (;;) {
    auto result = co_await results.next();
    if (!result) co_return;
    std::printf("%-24s %s\n", result->input.filename().c_str(), verdict(*result).c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  drover::Routines routines;
  routines.add(parse, count_pairs).on_start(limit_memory);
  if (drover::in_worker()) return drover::serve(routines);

  if (argc != 2 || !fs::is_directory(argv[1])) {
    std::fprintf(stderr, "usage: untrusted_parser FOLDER\n");
    return 2;
  }
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(argv[1]))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());

  drover::PoolOptions options{.size = 2};
  options.worker.name = "parser";
  options.worker.shutdown_grace = 500ms;
  options.restart = {.max_restarts = files.size(), .within = 60s, .backoff = 0s, .max_backoff = 0s};
  return drover::run_main(drover::with_pool(
      options, [&files](drover::WorkerPool& pool) -> asio::awaitable<void> { return parse_all(pool, files); }));
}
