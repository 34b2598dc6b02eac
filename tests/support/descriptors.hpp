#pragma once

#include <cstddef>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdexcept>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <drover/os/fd.hpp>

/// Descriptors that tests send.
namespace support {

using drover::UniqueFd;

/// Both ends of a pipe, the reading end first: close-on-exec and blocking.
inline std::pair<UniqueFd, UniqueFd> pipe_ends() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

/// A pipe's reading end, from which this text can be read, and then its end.
inline UniqueFd pipe_with(std::string_view text) {
  auto [reading, writing] = pipe_ends();
  if (::write(writing.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    throw std::runtime_error("write");
  return std::move(reading);
}

/// What can be read until the end of the file.
inline std::string rest_of(int fd) {
  std::string text;
  char bytes[256];
  for (ssize_t got = 0; (got = ::read(fd, bytes, sizeof bytes)) > 0;) text.append(bytes, static_cast<std::size_t>(got));
  return text;
}
inline std::string rest_of(const UniqueFd& fd) { return rest_of(fd.get()); }

/// The writing end is closed in all processes within that time. Nothing must be left to read.
inline bool ends_within(const UniqueFd& reading, int milliseconds) {
  pollfd watched{reading.get(), POLLIN, 0};
  char byte = 0;
  return ::poll(&watched, 1, milliseconds) == 1 && ::read(reading.get(), &byte, 1) == 0;
}

inline bool closes_on_exec(const UniqueFd& fd) { return (::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0; }
inline bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

/// Both refer to the same open file, or at least to files with the same inode.
inline bool same_file(int one, int other) {
  const auto first = drover::detail::identity_of(one);
  return first && first == drover::detail::identity_of(other);
}

/// A socket that takes so many seconds to close: its peer does not read what has been sent.
inline int lingering_socket(int seconds) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int connected = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
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

/// One message with these descriptors attached.
inline void send_with(int socket, std::string_view bytes, std::vector<int> descriptors) {
  alignas(cmsghdr) char room[CMSG_SPACE(253 * sizeof(int))] = {};
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = room;
    message.msg_controllen = CMSG_SPACE(descriptors.size() * sizeof(int));
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
    for (std::size_t i = 0; i < descriptors.size(); ++i) reinterpret_cast<int*>(CMSG_DATA(header))[i] = descriptors[i];
  }
  if (::sendmsg(socket, &message, MSG_NOSIGNAL) != static_cast<ssize_t>(bytes.size()))
    throw std::runtime_error("sendmsg");
}

}  // namespace support
