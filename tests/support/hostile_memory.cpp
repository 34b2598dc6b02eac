// A worker that sends memory as it should not, in the way that its argument names.
#include <cstdint>
#include <fcntl.h>
#include <string_view>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include "support/hostile.hpp"
#include "support/shared_memory.hpp"

namespace {

using namespace hostile;
using drover::detail::Kind;
using drover::detail::Raw;

/// A RESULT that announces so many bytes of shared text.
std::vector<std::byte> result_of(const FrameHeader& call, std::uint64_t announced) {
  drover::detail::ByteBuffer body;
  drover::Encoder out(body);
  Raw::of(out).tagged(Kind::shared_text, announced);
  return frame({.type = FrameType::result, .slot = call.slot, .descriptors = 1, .id = call.id}, body.view());
}

void answer(std::string_view how, const FrameHeader& call) {
  using support::memory_file;
  const int sealed = support::seals_of_memory;
  const auto send_memory = [&](const drover::UniqueFd& file, std::uint64_t announced) {
    const int descriptor = file.get();
    send(data, result_of(call, announced), {&descriptor, 1});
  };
  if (how == "honest") send_memory(memory_file("text", sealed), 4);
  if (how == "unsealed") send_memory(memory_file("text", 0), 4);
  if (how == "half sealed") send_memory(memory_file("text", F_SEAL_SHRINK | F_SEAL_GROW), 4);
  if (how == "a block") send_memory(memory_file("text", support::seals_of_block), 4);
  if (how == "shorter") send_memory(memory_file("text", sealed), 4'000);
  if (how == "longer") send_memory(memory_file("text", sealed), 3);
  if (how == "enormous") send_memory(memory_file("text", sealed), UINT64_MAX);
  if (how == "all that is allowed") send_memory(memory_file("text", sealed), std::uint64_t{64} << 20);
  if (how == "a pipe") send_memory(support::pipe_with("text"), 4);
  if (how == "a socket") {
    const int lingering = lingering_socket(1);
    send(data, result_of(call, 4), {&lingering, 1});
    ::close(lingering);
  }
  if (how == "truncated") {
    const drover::UniqueFd file = memory_file("text", F_SEAL_GROW);
    send_memory(file, 4);
    (void)::ftruncate(file.get(), 0);
  }
  if (how == "too large" || how == "sparse") {
    const drover::UniqueFd file = memory_file("", 0);
    const std::uint64_t size = how == "sparse" ? 1 << 20 : std::uint64_t{1} << 40;
    if (::ftruncate(file.get(), static_cast<off_t>(size)) != 0) ::_exit(4);
    ::fcntl(file.get(), F_ADD_SEALS, sealed);
    send_memory(file, size);
  }
  if (how == "bloated") {
    const drover::UniqueFd file = memory_file("text", 0);
    if (::fallocate(file.get(), FALLOC_FL_KEEP_SIZE, 0, 16 << 20) != 0) ::_exit(4);
    ::fcntl(file.get(), F_ADD_SEALS, sealed);
    send_memory(file, 4);
  }
  if (how == "cut off") {
    const drover::UniqueFd file = memory_file("text", sealed);
    const int descriptor = file.get();
    const auto bytes = result_of(call, 4);
    send(data, std::span(bytes).first(bytes.size() - 3), {&descriptor, 1});
    ::_exit(5);
  }
}

}  // namespace

int main(int, char** argv) {
  greet();
  for (;;) answer(argv[1], next_call());
}
