// A worker whose routines take and return shared text and bytes.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <signal.h>
#include <span>
#include <string>
#include <sys/mman.h>
#include <tuple>
#include <unistd.h>
#include <utility>
#include <vector>

#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/wire/shared.hpp>
#include <drover/wire/shared_blocks.hpp>
#include <drover/worker/serve.hpp>
#include <drover/worker/this_call.hpp>

#include "support/shared_memory.hpp"
#include "support/shared_routines.hpp"

namespace {

using namespace support;
using drover::SharedBlocks;
using drover::SharedDraft;

Text reversed(const Text& text) {
  SharedDraft<std::string> draft(text.size());
  std::reverse_copy(text.view().begin(), text.view().end(), draft.bytes().begin());
  return std::move(draft).seal();
}

asio::awaitable<std::string> text_later(Text text, int milliseconds) {
  asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(milliseconds));
  co_await timer.async_wait(asio::use_awaitable);
  co_return std::string(text.view());
}

asio::awaitable<Text> shared_later(std::string text, int milliseconds) {
  asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(milliseconds));
  co_await timer.async_wait(asio::use_awaitable);
  co_return Text::copy_of(text);
}

Page turned(Page page) {
  std::reverse(page.parts.begin(), page.parts.end());
  page.text = reversed(page.text);
  return page;
}

/// Whether this process could write to it.
bool is_writable(const Text& text) {
  const auto page = reinterpret_cast<std::uintptr_t>(text.view().data());
  return ::mprotect(reinterpret_cast<void*>(page), 1, PROT_READ | PROT_WRITE) == 0;
}

}  // namespace

int main() {
  drover::in_worker();
  SharedBlocks blocks(0);  // it keeps none that are free
  drover::Routines routines;
  routines.add("text", [](Text text) { return std::string(text.view()); })
      .add("size", [](const Text& text) { return text.size(); })
      .add("bytes", [](Bytes bytes) { return text_of(bytes.view()); })
      .add("make", [](std::size_t size, char letter) { return Text::copy_of(std::string(size, letter)); })
      .add("reversed", reversed)
      .add("echo", [](Text text) { return text; })
      .add("turned", turned)
      .add("of_blocks", [&](std::string text) { return blocks.copy_of<std::string>(text); })
      .add("pass", [](std::tuple<int, Text> pair) { return pair; })
      .add("is_writable", is_writable)
      .add("text_later", text_later)
      .add("shared_later", shared_later)
      .add("doze", [](int milliseconds) { ::usleep(static_cast<useconds_t>(milliseconds) * 1000); })
      .add("text_in_attempt",
           [](unsigned wanted, Text text) {
             if (drover::this_call::attempt() < wanted) ::_exit(9);
             return std::string(text.view());
           })
      .add("exit_with", [](Text) { ::_exit(9); })
      .add("kill_wrapper",
           [](unsigned attempts, Text text) {
             if (drover::this_call::attempt() <= attempts) {
               ::kill(::getppid(), SIGKILL);
               ::pause();  // it still reads
             }
             return std::string(text.view());
           })
      .add("number", [](int x) { return 2 * x; })
      .add("pid", [] { return ::getpid(); })
      .add("open_descriptors", open_descriptors_here)
      .add("mappings", [] { return shared_mappings().size(); })
      .add(reversed_typed, reversed);
  return drover::serve(routines);
}
