defmodule EmbeddedEpmd.Build.Prebuilt do
  @moduledoc false
  # A library that a release of this package brings: names, archives and sums are those of rustler_precompiled.

  alias EmbeddedEpmd.Build.{Download, Target}

  @checksums "checksum-Elixir.EmbeddedEpmd.Native.exs"
  @nif "2.15"
  # Of an archive; bytes.
  @longest Download.limit()

  @doc "Name of the library in the archive, which is this with `.tar.gz`."
  def name(version, triple), do: "libepmd_nif-v#{version}-nif-#{@nif}-#{triple}.so"

  @doc "The file of sums that a release brings."
  def checksums, do: @checksums

  @doc "The folder that keeps what was downloaded."
  def cache(environment \\ System.get_env()) do
    case environment["RUSTLER_PRECOMPILED_GLOBAL_CACHE_PATH"] || "" do
      "" -> :filename.basedir(:user_cache, "embedded_epmd", if(environment["MIX_XDG"], do: %{os: :linux}, else: %{}))
      path -> Path.expand(path)
    end
  end

  @doc """
  The library, and the notices that go with it.

  `{:build, sentence}` where none can be had, and nothing is wrong with that; `{:error, sentence}` for one that is not
  what was promised.
  """
  def read(base_url, version, triple, cache \\ cache(), checksums \\ @checksums) do
    archive = name(version, triple) <> ".tar.gz"
    kept = Path.join(cache, archive)

    with :ok <- address(base_url),
         :ok <- crypto(),
         {:ok, sum} <- sum(archive, checksums),
         {:ok, contents} <- cached(kept, sum) || download(base_url, archive),
         :ok <- same(contents, sum, archive),
         {:ok, files} <- unpack(contents, version, triple) do
      keep(contents, kept)
      {:ok, files}
    end
  end

  @doc "What an archive holds, checked."
  def unpack(contents, version, triple) do
    name = name(version, triple)

    with {:ok, files} <- extract(contents, name),
         {:ok, files} <- expected(files, name) do
      case Target.check(files[name], triple) do
        {:error, fault} -> broken(name, "the library in it #{fault}, and #{triple} is needed")
        _ -> {:ok, %{library: files[name], notice: files["NOTICE"]}}
      end
    end
  end

  defp address(url) do
    if is_binary(url) and url =~ ~r{^(https?://[^/]|file:///)},
      do: :ok,
      else: {:error, "the base URL must begin with https://, http:// or file:///, and is #{inspect(url)}"}
  end

  defp crypto do
    with {:error, sentence} <- Download.start(:crypto), do: {:build, sentence}
  end

  defp sum(archive, checksums) do
    with {:ok, text} <- File.read(checksums), {%{} = sums, _} <- evaluate(text) do
      case sums[archive] do
        "sha256:" <> sum when byte_size(sum) == 64 -> {:ok, String.downcase(sum)}
        nil -> {:build, "there is no #{archive}"}
        other -> {:error, "#{@checksums} must have sha256: and 64 digits for #{archive}, and has #{inspect(other)}"}
      end
    else
      {:error, :enoent} -> {:build, "there is no #{@checksums}, as in every checkout that is no release"}
      _ -> {:error, "#{@checksums} cannot be read: it must be a map of names to sums"}
    end
  end

  defp evaluate(text) do
    Code.eval_string(text)
  rescue
    _ -> :error
  end

  # What is wrong in the cache is fetched again. It may be shared with others.
  defp cached(kept, sum) do
    with {:ok, %{type: :regular, size: size}} when size <= @longest <- File.stat(kept),
         {:ok, contents} <- File.read(kept),
         ^sum <- sha256(contents) do
      {:ok, contents}
    else
      _ -> nil
    end
  end

  # A cache that cannot be written is no reason to fail. Others may read it at any time.
  defp keep(contents, kept) do
    part = "#{kept}.#{System.pid()}"

    if File.read(kept) != {:ok, contents} do
      with :ok <- File.mkdir_p(Path.dirname(kept)), :ok <- File.write(part, contents), do: File.rename(part, kept)
    end
  end

  defp download(base_url, archive) do
    url = String.trim_trailing(base_url, "/") <> "/" <> archive
    Mix.shell().info("Downloading #{url}")
    part = Path.join(Mix.Project.build_path(), "#{archive}.#{System.pid()}.#{System.unique_integer([:positive])}")
    File.mkdir_p!(Path.dirname(part))

    try do
      case Download.save(url, part) do
        :ok -> {:ok, File.read!(part)}
        {:error, sentence} -> {:build, sentence}
      end
    after
      File.rm(part)
    end
  end

  defp same(contents, sum, archive) do
    case sha256(contents) do
      ^sum -> :ok
      other -> broken(archive, "its SHA-256 is #{other}, and #{@checksums} has #{sum}")
    end
  end

  defp sha256(contents), do: :sha256 |> :crypto.hash(contents) |> Base.encode16(case: :lower)

  # In memory, so that no name in it can reach a file.
  defp extract(contents, name) do
    with {:ok, table} <- :erl_tar.table({:binary, contents}, [:compressed, :verbose]),
         {:ok, files} <- :erl_tar.extract({:binary, contents}, [:compressed, :memory]) do
      case Enum.find(table, &(elem(&1, 1) != :regular)) do
        nil -> {:ok, for({file, bytes} <- files, do: {List.to_string(file), bytes})}
        other -> broken(name, "#{elem(other, 0)} in it is a #{elem(other, 1)}, and only files belong there")
      end
    else
      {:error, reason} -> broken(name, "it cannot be unpacked: #{reason(reason)}")
    end
  rescue
    _ -> broken(name, "it cannot be unpacked")
  end

  defp reason(:eof), do: "it is no archive, or ends too early"
  defp reason({_, reason}), do: inspect(reason)
  defp reason(reason), do: inspect(reason)

  defp expected(files, name) do
    case for({file, _} <- files, do: file) -- ["NOTICE"] do
      [^name] -> {:ok, Map.new(files)}
      [] -> broken(name, "it holds no #{name}")
      names -> broken(name, "it holds #{Enum.join(names, ", ")}, and #{name} alone belongs there, with NOTICE")
    end
  end

  defp broken(name, fault) do
    archive = if String.ends_with?(name, ".tar.gz"), do: name, else: name <> ".tar.gz"
    {:error, "#{archive} is not what this package promises: #{fault}"}
  end
end
