#pragma once

#include <cerrno>
#include <cstdint>
#include <fcntl.h>
#include <memory>
#include <openssl/evp.h>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <vector>

#include <drover/os/fd.hpp>
#include <drover/routine.hpp>

#include "walk.hpp"

struct Digest {
  std::string hex;
  std::uint64_t bytes{};
};

/// What the parent calls, and the workers run.
inline constexpr drover::Routine<Digest(File)> sha256{"sha256"};

[[noreturn]] inline void throw_errno() { throw std::runtime_error(std::generic_category().message(errno)); }

/// Gives up in the middle of a file when its call is cancelled or its worker is stopped.
inline Digest hash_file(std::stop_token stop, const File& named) {
  // O_NONBLOCK: if a FIFO has replaced the file meanwhile, open() must not wait for a writer.
  const drover::UniqueFd file(::open(named.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) throw_errno();
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) throw_errno();
  if (!S_ISREG(status.st_mode)) throw std::runtime_error("no longer a regular file");

  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  if (!context || EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) != 1)
    throw std::runtime_error("OpenSSL has no SHA-256");

  Digest result;
  static std::vector<unsigned char> buffer(256 * 1024);
  for (;;) {
    if (stop.stop_requested()) throw std::runtime_error("cancelled");
    const ssize_t count = ::read(file.get(), buffer.data(), buffer.size());
    if (count == 0) break;
    if (count < 0) {
      if (errno == EINTR) continue;
      throw_errno();
    }
    EVP_DigestUpdate(context.get(), buffer.data(), static_cast<std::size_t>(count));
    result.bytes += static_cast<std::uint64_t>(count);
  }

  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  EVP_DigestFinal_ex(context.get(), digest, &length);
  for (unsigned i = 0; i < length; ++i) {
    static constexpr char digits[] = "0123456789abcdef";
    result.hex += digits[digest[i] >> 4];
    result.hex += digits[digest[i] & 15];
  }
  return result;
}
