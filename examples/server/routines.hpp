#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <gd.h>
#include <memory>
#include <openssl/evp.h>
#include <stdexcept>
#include <string>
#include <string_view>
#include <sys/resource.h>

#include <drover/drover.hpp>

// What runs in the workers. std::invalid_argument means that the client is to blame.

inline std::string sha256(std::string bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), digest, &length, EVP_sha256(), nullptr) != 1)
    throw std::runtime_error("OpenSSL has no SHA-256");
  std::string hex;
  for (unsigned i = 0; i < length; ++i) {
    static constexpr char digits[] = "0123456789abcdef";
    hex += digits[digest[i] >> 4];
    hex += digits[digest[i] & 15];
  }
  return hex + '\n';
}

using Image = std::unique_ptr<gdImage, void (*)(gdImage*)>;

inline Image decode_image(std::string& bytes) {
  gdImage* (*decode)(int, void*) = nullptr;
  const std::string_view begin = bytes;
  if (begin.starts_with("\x89PNG")) decode = ::gdImageCreateFromPngPtr;
  if (begin.starts_with("\xff\xd8")) decode = ::gdImageCreateFromJpegPtr;
  if (begin.starts_with("GIF8")) decode = ::gdImageCreateFromGifPtr;
  if (begin.starts_with("RIFF") && begin.substr(std::min<std::size_t>(8, begin.size())).starts_with("WEBP"))
    decode = ::gdImageCreateFromWebpPtr;
  if (decode == nullptr) throw std::invalid_argument("not a PNG, JPEG, GIF or WebP image");
  Image image(decode(static_cast<int>(bytes.size()), bytes.data()), ::gdImageDestroy);
  if (!image) throw std::invalid_argument("the image is damaged, or needs too much memory");
  return image;
}

/// A PNG of at most `size` pixels in each direction. Small images are not enlarged.
inline std::string thumbnail(std::string bytes, std::uint32_t size) {
  const Image image = decode_image(bytes);
  const int width = gdImageSX(image), height = gdImageSY(image);
  const double scale = std::min(1.0, static_cast<double>(size) / std::max(width, height));
  const auto scaled = [scale](int length) { return std::max(1, static_cast<int>(length * scale)); };

  const Image small(::gdImageCreateTrueColor(scaled(width), scaled(height)), ::gdImageDestroy);
  if (!small) throw std::bad_alloc();
  ::gdImageAlphaBlending(small.get(), 0);  // keeps transparent what is transparent
  ::gdImageSaveAlpha(small.get(), 1);
  ::gdImageCopyResampled(small.get(), image.get(), 0, 0, 0, 0, gdImageSX(small), gdImageSY(small), width, height);

  int length = 0;
  const std::unique_ptr<void, void (*)(void*)> png(::gdImagePngPtr(small.get(), &length), ::gdFree);
  if (!png) throw std::bad_alloc();
  return {static_cast<const char*>(png.get()), static_cast<std::size_t>(length)};
}

/// Before the first call. A small file may be an image of gigabytes.
inline void limit_worker(const drover::WorkerInfo& worker) {
  ::gdSetErrorMethod([](int, const char*, va_list) {});  // gd would write to stderr
  const rlim_t bytes = std::stoull(worker.extra.at("memory"));
  if (bytes == 0) return;
  const rlimit limit{bytes, bytes};
  ::setrlimit(RLIMIT_AS, &limit);
}

inline void add_routines(drover::Routines& routines) {
  routines.add("sha256", sha256);
  routines.add("thumbnail", thumbnail);
  routines.on_start(limit_worker);
}
