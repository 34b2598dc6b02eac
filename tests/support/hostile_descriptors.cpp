// A worker that sends descriptors as it should not, in the way that its argument names.
#include <cstdint>
#include <string_view>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include "support/hostile.hpp"

namespace {

using namespace hostile;

/// The RESULT of a call, which says that it has so many descriptors.
template <class... T>
std::vector<std::byte> result_of(const FrameHeader& call, std::uint16_t descriptors, const T&... values) {
  drover::detail::FrameBody body;
  drover::Encoder out(body);
  (out.put(values), ...);
  return frame({.type = FrameType::result, .slot = call.slot, .descriptors = descriptors, .id = call.id}, body.front());
}

/// They take long to close, so that whoever closes them is noticed.
std::vector<int> lingering(std::size_t count) {
  std::vector<int> sockets;
  for (std::size_t i = 0; i < count; ++i) sockets.push_back(lingering_socket(1));
  return sockets;
}
void send_away(std::span<const std::byte> bytes, const std::vector<int>& descriptors) {
  send(data, bytes, descriptors);
  for (const int descriptor : descriptors) ::close(descriptor);
}

/// In place of the RESULT of `call`, which takes descriptors.
void answer(std::string_view how, const FrameHeader& call) {
  const drover::UniqueFd any = support::pipe_with("x");
  if (how == "fewer") send_away(result_of(call, 2, any), lingering(1));
  if (how == "more") send_away(result_of(call, 1, any), lingering(2));
  if (how == "none") send_away(result_of(call, 1, any), {});
  if (how == "unnamed") send_away(result_of(call, 0, any), lingering(1));
  if (how == "too many") send_away(result_of(call, 253, any), lingering(1));
  if (how == "twice") {
    const auto bytes = result_of(call, 1, any, "the rest");
    send_away(std::span(bytes).first(25), lingering(1));
    send_away(std::span(bytes).subspan(25), lingering(1));
  }
  if (how == "malformed") send_away(result_of(call, 3, std::vector<int>{1, 2, 3}), lingering(3));
  if (how == "half") send_away(result_of(call, 2, any), lingering(2));  // one belongs to no value
  if (how == "without a value") send_away(result_of(call, 1, 7), lingering(1));
  if (how == "afterwards") {
    send_away(result_of(call, 1, any), lingering(1));
    send_away(result_of(call, 1, any), lingering(1));
  }
  if (how == "with an error") {
    drover::detail::ByteBuffer body;
    drover::Encoder out(body);
    out.put("a type");
    out.put("a text");
    const FrameHeader header{
        .type = FrameType::result, .status = 1, .slot = call.slot, .descriptors = 1, .id = call.id};
    send_away(frame(header, body.view()), lingering(1));
  }
}

}  // namespace

int main(int, char** argv) {
  const std::string_view how = argv[1];
  greet();
  const FrameHeader call = next_call();
  if (how == "for another call") {  // the second one takes none
    const FrameHeader other = next_call();
    send_away(result_of(other, 1, 7), lingering(1));
  } else if (how == "forever") {  // as many as the parent reads, in a frame that does not end
    FrameHeader header{.type = FrameType::result, .slot = call.slot, .descriptors = 1, .id = call.id};
    header.size = 1 << 20;
    send(data, std::as_bytes(std::span(&header, 1)));
    const drover::UniqueFd any = support::pipe_with("x");
    const std::vector<int> many(253, any.get());
    for (;;) send(data, std::vector<std::byte>(1), many);
  } else {
    answer(how, call);
  }
  for (;;) ::pause();
}
