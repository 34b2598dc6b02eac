// A worker that greets as it should and then misbehaves in the way that its argument names. It shares no code of
// drover's worker side, only the format of frames.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <poll.h>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

#include "support/hostile.hpp"

namespace {

using namespace hostile;

/// So many STALLED, with a time in nanoseconds and so many bytes of a body, when it has been ready for 50 ms. Then it
/// answers its call.
void send_stalled(const FrameHeader& call, int count, std::uint64_t id, std::int64_t for_ns, std::size_t size) {
  ::usleep(50'000);  // a stall takes time
  std::vector<std::byte> body(std::max(size, sizeof for_ns));
  std::memcpy(body.data(), &for_ns, sizeof for_ns);
  body.resize(size);
  for (; count > 0; --count) send(control, frame({.type = FrameType::stalled, .id = id}, body));
  FrameHeader status;  // what comes before it is read before its answer
  receive(control, &status, sizeof status);
  send(control, frame({.type = FrameType::status_reply, .id = status.id}, std::vector<std::byte>(24)));
  send(data, answer_to(call, 1));
}

[[noreturn]] void do_nothing() {
  for (;;) ::pause();
}

/// Never gets ready.
void fail_to_start(std::string_view mode) {
  const std::vector<std::byte> sound = start_failed("Type", "text");
  if (mode == "start_failed_twice") {
    send(control, sound);
    send(control, start_failed("Other", "text"));
  } else if (mode == "start_failed_then_hello") {
    send(control, sound);
    greet();
  } else if (mode == "start_failed_in_pieces") {
    for (const std::byte& byte : sound) send(control, std::span(&byte, 1));
  } else if (mode == "start_failed_oversized") {
    send(control, start_failed("Type", std::string(64 * 1024 + 1, 'x')));
  } else if (mode == "start_failed_huge") {
    send(control, frame({.type = FrameType::start_failed, .id = drover::detail::hello_id()},
                        std::vector<std::byte>((std::size_t{2} << 20) + 1)));
  } else if (mode == "start_failed_malformed") {
    send(control, frame({.type = FrameType::start_failed, .id = drover::detail::hello_id()},
                        std::as_bytes(std::span("rubbish"))));
  } else if (mode == "start_failed_empty") {
    send(control, frame({.type = FrameType::start_failed, .id = drover::detail::hello_id()}, {}));
  } else if (mode == "start_failed_of_another_version") {
    send(control, frame({.type = FrameType::start_failed, .id = drover::detail::hello_id(77)}, {}));
  } else if (mode == "start_failed_without_version") {
    send(control, frame({.type = FrameType::start_failed, .id = 1}, {}));
  } else if (mode == "start_failed_with_descriptors") {
    const int descriptor = lingering_socket(1);
    send(control, sound, std::span(&descriptor, 1));
    ::close(descriptor);
  } else if (mode == "start_failed_flood") {
    for (;;) send(control, sound);
  } else {
    return;
  }
  do_nothing();
}

}  // namespace

int main(int, char** argv) {
  const std::string_view mode = argv[1];
  if (mode == "deaf_to_control") ::shutdown(control, SHUT_RD);
  fail_to_start(mode);
  greet();
  if (mode == "deaf_to_calls") {  // answers the first, then takes no more
    const FrameHeader call = next_call();
    ::shutdown(data, SHUT_RD);
    send(data, answer_to(call, 1));
  } else if (mode == "deaf_to_control" || mode == "leaves_status_unread") {
    pollfd readable{control, POLLIN, 0};
    if (mode == "leaves_status_unread") ::poll(&readable, 1, -1), ::shutdown(control, SHUT_RD);
    for (;;) send(data, answer_to(next_call(), 1));
  } else if (mode == "attaches_descriptors") {
    const int descriptor = lingering_socket(1);
    send(data, answer_to(next_call(), 1), std::span(&descriptor, 1));
    ::close(descriptor);
  } else if (mode == "attaches_to_control") {  // and closes neither
    const int descriptor = lingering_socket(1);
    FrameHeader status;
    receive(control, &status, sizeof status);
    const std::vector<std::byte> body(24);
    send(control, frame({.type = FrameType::status_reply, .id = status.id}, body), std::span(&descriptor, 1));
    ::close(descriptor);
  } else if (mode == "leaves_descriptors") {  // in a message that nobody reads any more
    const FrameHeader call = next_call();
    const int descriptor = lingering_socket(1);
    std::vector<std::byte> bytes = answer_to(call, 1);
    bytes[4] = std::byte{99};  // a type that does not exist
    send(data, bytes);
    send(data, answer_to(call, 1), std::span(&descriptor, 1));
    ::close(descriptor);
  } else if (mode == "answers_unread") {
    FrameHeader call;
    receive(data, &call, sizeof call);
    send(data, answer_to(call, 1));
  } else if (mode == "refuses_twice") {
    const FrameHeader call = next_call();
    drover::detail::ByteBuffer body;
    drover::Encoder(body).put(std::string("no"));
    const auto status = static_cast<std::uint8_t>(drover::detail::ResultStatus::cancelled);
    for (int i = 0; i < 2; ++i)
      send(data, frame({.type = FrameType::result, .status = status, .slot = call.slot, .id = call.id}, body.view()));
  } else if (mode == "answers_status_twice") {
    FrameHeader status;
    receive(control, &status, sizeof status);
    const std::vector<std::byte> body(24);
    for (int i = 0; i < 2; ++i) send(control, frame({.type = FrameType::status_reply, .id = status.id}, body));
  } else if (mode == "start_failed_when_ready") {
    next_call();
    send(control, start_failed("Type", "text"));
  } else if (mode == "stalled") {  // the second call, and then no more
    send(data, answer_to(next_call(), 1));
    const FrameHeader call = next_call();
    send_stalled(call, std::stoi(argv[2]), std::stoull(argv[3]), std::stoll(argv[4]), std::stoul(argv[5]));
  } else if (mode == "returns_calls") {  // takes one, and begins none
    const FrameHeader call = next_call();
    send(control, frame({.type = FrameType::draining, .id = call.id - 1}, {}));
    return 0;
  } else if (mode == "answers_what_it_returned") {
    const FrameHeader call = next_call();
    send(control, frame({.type = FrameType::draining, .id = call.id - 1}, {}));
    FrameHeader status;
    receive(control, &status, sizeof status);  // its answer comes after what is said above
    const std::vector<std::byte> body(24);
    send(control, frame({.type = FrameType::status_reply, .id = status.id}, body));
    receive(control, &status, sizeof status);
    send(data, answer_to(call, 1));
  }
  do_nothing();
}
