// A worker whose routines take and return descriptors.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <dirent.h>
#include <fcntl.h>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <sys/resource.h>
#include <system_error>
#include <thread>
#include <tuple>
#include <unistd.h>
#include <utility>
#include <variant>
#include <vector>

#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/worker/serve.hpp>
#include <drover/worker/this_call.hpp>

#include "support/descriptor_routines.hpp"
#include "support/descriptors.hpp"

namespace {

using namespace support;

UniqueFd open_file(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) throw std::system_error(errno, std::system_category(), path);
  return file;
}

std::size_t open_descriptors() {
  std::size_t count = 0;
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir("/proc/self/fd"), &::closedir);
  while (const dirent* const entry = ::readdir(folder.get())) count += entry->d_name[0] != '.';
  return count;
}

asio::awaitable<void> wait_for(int milliseconds) {
  asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(milliseconds));
  co_await timer.async_wait(asio::use_awaitable);
}

asio::awaitable<std::string> read_later(UniqueFd fd, int milliseconds) {
  co_await wait_for(milliseconds);
  co_return rest_of(fd);
}

asio::awaitable<UniqueFd> pipe_later(std::string text, int milliseconds) {
  co_await wait_for(milliseconds);
  co_return pipe_with(text);
}

asio::awaitable<UniqueFd> forward(UniqueFd fd) { co_return fd; }

Job turned(Job job) {
  std::reverse(job.more.begin(), job.more.end());
  if (job.log) std::swap(*job.log, job.in);
  return job;
}

/// The descriptors of calls, kept for good.
std::vector<UniqueFd>& kept() {
  static std::vector<UniqueFd> all;
  return all;
}

void lower_limit(std::uint64_t free) {
  const UniqueFd next(::dup(0));
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = static_cast<rlim_t>(next.get()) + free;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

void add_plain(drover::Routines& routines) {
  routines.add("open", open_file)
      .add("read", [](UniqueFd fd) { return rest_of(fd); })
      .add("read_const", [](const UniqueFd& fd) { return rest_of(fd); })
      .add("read_all",
           [](std::vector<UniqueFd> all) {
             std::string text;
             for (const UniqueFd& fd : all) text += rest_of(fd);
             return text;
           })
      .add("write", [](UniqueFd fd, std::string text) { return ::write(fd.get(), text.data(), text.size()); })
      .add("closes_on_exec", [](UniqueFd fd) { return closes_on_exec(fd); })
      .add("read_with", [](std::string text, UniqueFd fd) { return text.size() + rest_of(fd).size(); })
      .add("maybe", [](std::optional<UniqueFd> fd) { return fd ? rest_of(*fd) : std::string("none"); })
      .add("maybe_not", [](bool there) { return there ? std::optional(pipe_with("x")) : std::nullopt; })
      .add("turn", turned)
      .add("pass", [](std::tuple<int, UniqueFd> pair) { return pair; })
      .add("either", [](std::variant<int, UniqueFd> either) { return either; })
      .add("map", [](std::map<std::string, UniqueFd> map) { return map; })
      .add("many",
           [](std::size_t count) {
             std::vector<UniqueFd> all;
             for (std::size_t i = 0; i < count; ++i) all.push_back(pipe_with(std::to_string(i)));
             return all;
           })
      .add("large", [](UniqueFd fd) { return std::pair(std::move(fd), std::string(300'000, 'x')); })
      .add("empty", [] { return UniqueFd(); })
      .add("closed",
           [] {
             UniqueFd fd = pipe_with("x");
             ::close(fd.get());
             return fd;
           })
      .add("keep", [](UniqueFd fd) { kept().push_back(std::move(fd)); })
      .add("number", [](int x) { return 2 * x; });
}

void add_others(drover::Routines& routines) {
  routines.add("read_later", read_later)
      .add("pipe_later", pipe_later)
      .add("forward", forward)
      .add("pipe_of", [](std::string text) { return pipe_with(text); })
      .add("doze", [](int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); })
      .add("pipe_after",
           [](int milliseconds) {
             std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
             return pipe_with("x");
           })
      .add("read_in_attempt",
           [](unsigned wanted, UniqueFd fd) {
             if (drover::this_call::attempt() < wanted) ::_exit(9);
             return rest_of(fd);
           })
      .add("exit_with", [](UniqueFd) { ::_exit(9); })
      .add("open_descriptors", open_descriptors)
      .add("lower_limit", lower_limit)
      .add(open_typed, open_file)
      .add(read_typed, [](const UniqueFd& fd) { return rest_of(fd); })
      .add(turn_typed, turned);
}

}  // namespace

int main(int argc, char**) {
  drover::in_worker();
  drover::Routines routines;
  if (argc == 1) {
    add_plain(routines);
    add_others(routines);
  } else {  // one that takes no descriptors
    routines.add("number", [](int x) { return 2 * x; }).add("open_descriptors", open_descriptors);
  }
  return drover::serve(routines);
}
