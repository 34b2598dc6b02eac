#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <gtest/gtest.h>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <drover/wire/detail/stream_credit.hpp>

#include "support/raw_parent.hpp"

/// The parent of one worker, which sends it whatever frames of streams the test wants.
namespace raw {

using drover::detail::CreditBody;
using drover::detail::stream_window;

inline constexpr std::uint8_t takes = drover::detail::items_out_flag, gives = drover::detail::items_in_flag;

inline Options stream_worker() { return {.program = DROVER_HELPER_STREAM_WORKER}; }

class StreamParent : public Worker {
 public:
  explicit StreamParent(const Options& options = stream_worker()) : Worker(options) { expect_hello(); }

  template <class... Args>
  std::uint64_t stream(std::uint8_t flags, std::string_view name, const Args&... args) {
    next_status = flags;
    return call(name, args...);
  }
  void queue(FrameType type, std::uint64_t id, std::span<const std::byte> body = {}) {
    FrameHeader header;
    header.type = type;
    header.slot = static_cast<std::uint32_t>(1000 + id);
    header.id = id;
    data.queue(header, body);
  }
  void send(FrameType type, std::uint64_t id, std::span<const std::byte> body = {}) {
    queue(type, id, body);
    flush(data);
  }
  void grant(std::uint64_t id, std::uint64_t bytes) {
    const CreditBody credit{.bytes = bytes};
    send(FrameType::credit, id, drover::detail::encode_body(credit));
  }
  template <class T>
  void queue_item(std::uint64_t id, const T& value) {
    queue(FrameType::item, id, encoded(value));
  }
  template <class T>
  static std::vector<std::byte> encoded(const T& value) {
    drover::detail::ByteBuffer body;
    drover::Encoder(body).put(value);
    return {body.view().begin(), body.view().end()};
  }
  /// The next frame on the data socket; none of that type is a failed test.
  Answer expect(FrameType type) {
    auto answer = next(data);
    EXPECT_TRUE(answer) << "nothing came";
    if (!answer) return {};
    EXPECT_EQ(answer->header.type, type);
    return std::move(*answer);
  }
  std::uint64_t expect_credit() {
    const Answer answer = expect(FrameType::credit);
    const auto credit = drover::detail::decode_body<CreditBody>(answer.body);
    return credit ? credit->bytes : 0;
  }
  /// Takes items, but grants nothing. Returns their bytes once no more come for a while.
  std::uint64_t take_items() {
    std::uint64_t bytes = 0;
    while (const auto item = next(data, 100ms)) {
      if (item->header.type != FrameType::item) {
        EXPECT_EQ(item->header.type, FrameType::item);
        break;
      }
      bytes += drover::detail::cost_of_item(item->body.size());
    }
    return bytes;
  }
};

struct Waiting {
  const char* routine;
  std::uint8_t flags;
};
inline const std::vector<Waiting> all_waiting{
    {"blocks", takes}, {"blocks_plain", takes}, {"sum", gives}, {"sum_plain", gives}};

/// Begins the call, and returns once its routine waits.
inline std::uint64_t begin(StreamParent& worker, const Waiting& waiting) {
  const auto id = waiting.flags == takes
                      ? worker.stream(takes, waiting.routine, std::size_t{1000}, std::uint64_t{1'000'000})
                      : worker.stream(gives, waiting.routine);
  if (waiting.flags == takes)
    EXPECT_GE(worker.take_items(), stream_window);
  else
    EXPECT_EQ(worker.expect_credit(), stream_window);
  return id;
}

}  // namespace raw
