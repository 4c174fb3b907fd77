defmodule EmbeddedEpmd.Build.Cargo do
  @moduledoc false
  # Builds the library with cargo.

  alias EmbeddedEpmd.Build.Target

  @crate "epmd_nif"

  @doc "The path of the library, or a sentence."
  def build(target) do
    with :ok <- recent_enough() do
      arguments = ["build", "--release", "--locked", "-p", @crate, "--message-format", "json-render-diagnostics"]
      # An empty CARGO_BUILD_TARGET is an error to cargo and means nothing to us.
      environment = [{"CARGO_BUILD_TARGET", nil} | rust_flags(target) ++ linker(target)]

      case System.cmd("cargo", arguments ++ target_dir() ++ triple(target), cd: File.cwd!(), env: environment) do
        {messages, 0} -> library(messages)
        {_, status} -> {:error, "cargo ended with status #{status}; its messages stand above#{advice(target)}"}
      end
    end
  end

  @doc "The library among cargo's messages, wherever its configuration had it made."
  def library(messages) do
    with line when line != nil <- messages |> String.split("\n") |> Enum.find(&ours?/1),
         [_, names] <- Regex.run(~r/"filenames":\[(.*?)\],"executable"/, line),
         path when path != nil <- names |> strings() |> Enum.find(&(Path.extname(&1) in [".so", ".dylib"])) do
      {:ok, path}
    else
      _ ->
        {:error, "cargo ended well, but made no library of #{@crate}: has its configuration changed the crate's kind?"}
    end
  end

  defp ours?(line),
    do: line =~ ~s("reason":"compiler-artifact") and line =~ ~s("kind":["cdylib"]) and line =~ ~s("name":"#{@crate}")

  # Elixir's escapes contain JSON's.
  defp strings(list) do
    for [_, string] <- Regex.scan(~r/"((?:[^"\\]|\\.)*)"/, list), do: Macro.unescape_string(string)
  end

  # One for all environments, since Rust is compiled alike for all.
  defp target_dir do
    cond do
      System.get_env("CARGO_TARGET_DIR", "") != "" ->
        []

      System.get_env("MIX_BUILD_PATH", "") != "" ->
        ["--target-dir", Path.join(Mix.Project.build_path(), "cargo_target")]

      true ->
        ["--target-dir", Path.join(Path.dirname(Mix.Project.build_path()), "cargo_target")]
    end
  end

  defp triple({:named, triple}), do: ["--target", triple]
  defp triple({:vm, _}), do: []

  defp linker({:named, triple}), do: Target.linker(triple)
  defp linker({:vm, _}), do: []

  # The variable replaces what .cargo/config.toml says.
  defp rust_flags({_, triple}) do
    flags = System.get_env("RUSTFLAGS", "")

    if triple =~ "musl" and flags != "" and not (flags =~ "crt-static"),
      do: [{"RUSTFLAGS", flags <> " -C target-feature=-crt-static"}],
      else: []
  end

  defp advice({:named, triple} = target) do
    variable = Target.linker_variable(triple)

    if linker(target) == [] and System.get_env(variable, "") == "",
      do: "; to link for #{triple}, name a C compiler for it in #{variable}",
      else: ""
  end

  defp advice({:vm, _}), do: ""

  defp recent_enough do
    case System.find_executable("cargo") && System.cmd("cargo", ["--version"], stderr_to_stdout: true) do
      nil -> {:error, "embedded_epmd needs Rust to compile its NIF, and cargo was not found: #{install()}"}
      {"cargo " <> version, 0} -> compare(version |> String.split() |> hd())
      {output, status} -> {:error, "cargo --version ended with status #{status}: #{String.trim(output)}"}
    end
  end

  defp compare(version) do
    case {Version.parse(version), Version.parse(needed() <> ".0")} do
      {{:ok, found}, {:ok, needed}} when found.major < needed.major or found.minor < needed.minor ->
        {:error, "embedded_epmd needs Rust to compile its NIF, and cargo #{version} is too old: #{install()}"}

      _ ->
        :ok
    end
  end

  defp install do
    "install Rust #{needed()} or newer (on Debian 12 and 13: apt-get install rustc-web cargo-web; elsewhere from " <>
      "https://rustup.rs), or name a ready library in EMBEDDED_EPMD_NATIVE"
  end

  defp needed do
    [_, version] = Regex.run(~r/^rust-version = "(.*)"$/m, File.read!("Cargo.toml"))
    version
  end
end
