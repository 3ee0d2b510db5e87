class DaprBolt < Formula
  desc "State and events for Dapr in one embedded file"
  homepage "https://github.com/dapr-bolt/dapr-bolt"
  version "@VERSION@"
  license "Apache-2.0"

  on_macos do
    on_arm do
      url "https://github.com/dapr-bolt/dapr-bolt/releases/download/v#{version}/dapr-bolt_#{version}_darwin_arm64.tar.gz"
      sha256 "@DARWIN_ARM64@"
    end
    on_intel do
      url "https://github.com/dapr-bolt/dapr-bolt/releases/download/v#{version}/dapr-bolt_#{version}_darwin_amd64.tar.gz"
      sha256 "@DARWIN_AMD64@"
    end
  end
  on_linux do
    on_arm do
      url "https://github.com/dapr-bolt/dapr-bolt/releases/download/v#{version}/dapr-bolt_#{version}_linux_arm64.tar.gz"
      sha256 "@LINUX_ARM64@"
    end
    on_intel do
      url "https://github.com/dapr-bolt/dapr-bolt/releases/download/v#{version}/dapr-bolt_#{version}_linux_amd64.tar.gz"
      sha256 "@LINUX_AMD64@"
    end
  end

  def install
    bin.install "dapr-bolt", "todo"
    man1.install Dir["man/*.1"]
    bash_completion.install "completions/dapr-bolt.bash" => "dapr-bolt"
    zsh_completion.install "completions/dapr-bolt.zsh" => "_dapr-bolt"
    fish_completion.install "completions/dapr-bolt.fish"
  end

  service do
    run [opt_bin/"dapr-bolt"]
    keep_alive crashed: true
    log_path var/"log/dapr-bolt.log"
    error_log_path var/"log/dapr-bolt.log"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/dapr-bolt version")
  end
end
