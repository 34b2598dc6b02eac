// A worker that greets as it should and then misbehaves in the way that its argument names. It shares no code of
// drover's worker side, only the format of frames.
#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

#include <drover/os/credentials.hpp>
#include <drover/wire/codec.hpp>
#include <drover/wire/frame.hpp>
#include <drover/wire/protocol.hpp>

namespace {

using drover::detail::FrameHeader;
using drover::detail::FrameType;

constexpr int control = 3, data = 4;

void wait_for(int fd, short events) {
  pollfd ready{fd, events, 0};
  ::poll(&ready, 1, -1);
}

std::vector<std::byte> frame(FrameHeader header, std::span<const std::byte> body) {
  header.size = static_cast<std::uint32_t>(body.size());
  std::vector<std::byte> bytes(sizeof header + body.size());
  std::memcpy(bytes.data(), &header, sizeof header);
  if (!body.empty()) std::memcpy(bytes.data() + sizeof header, body.data(), body.size());
  return bytes;
}

/// With descriptors attached, if there are any.
void send(int socket, std::span<const std::byte> bytes, std::span<const int> descriptors = {}) {
  while (!bytes.empty()) {
    alignas(cmsghdr) char room[CMSG_SPACE(253 * sizeof(int))] = {};
    iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!descriptors.empty()) {
      message.msg_control = room;
      message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
      cmsghdr* const header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
      std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
    }
    const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) ::_exit(3);
    if (sent < 0) wait_for(socket, POLLOUT);
    if (sent > 0) bytes = bytes.subspan(static_cast<std::size_t>(sent)), descriptors = {};
  }
}

bool receive(int socket, void* place, std::size_t size) {
  for (char* at = static_cast<char*>(place); size != 0;) {
    const ssize_t got = ::recv(socket, at, size, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return false;
    if (got < 0) wait_for(socket, POLLIN);
    if (got > 0) at += got, size -= static_cast<std::size_t>(got);
  }
  return true;
}

FrameHeader next_call() {
  FrameHeader header;
  if (!receive(data, &header, sizeof header)) ::_exit(0);
  std::vector<char> body(header.size);
  if (!receive(data, body.data(), body.size())) ::_exit(0);
  return header;
}

std::vector<std::byte> answer_to(const FrameHeader& call, int value) {
  drover::detail::ByteBuffer body;
  drover::Encoder(body).put(value);
  return frame({.type = FrameType::result, .slot = call.slot, .id = call.id}, body.view());
}

/// As the first frame of a worker whose on_start() has thrown.
std::vector<std::byte> start_failed(const std::string& type, const std::string& text) {
  drover::detail::ByteBuffer body;
  drover::Encoder encoder(body);
  encoder.put(type);
  encoder.put(text);
  return frame({.type = FrameType::start_failed, .id = drover::detail::hello_id()}, body.view());
}

void greet() {
  drover::detail::ByteBuffer body;
  drover::Encoder(body).put(drover::detail::Hello{"0", {"x"}});
  drover::detail::send_with_credentials(
      control, frame({.type = FrameType::hello, .id = drover::detail::hello_id()}, body.view()));
}

/// A socket that takes so many seconds to close: its peer does not read what has been sent.
int lingering_socket(int seconds) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0), connected = ::socket(AF_INET, SOCK_STREAM, 0);
  ::bind(listener, reinterpret_cast<sockaddr*>(&address), size);
  ::listen(listener, 1);
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  ::connect(connected, reinterpret_cast<sockaddr*>(&address), size);
  (void)::accept(listener, nullptr, nullptr);
  const linger wait{1, seconds};
  ::setsockopt(connected, SOL_SOCKET, SO_LINGER, &wait, sizeof wait);
  const std::vector<char> bytes(1 << 16);
  while (::send(connected, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL) > 0) continue;
  return connected;
}

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
