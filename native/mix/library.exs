defmodule EmbeddedEpmd.Build.Library do
  @moduledoc false
  # The NIF library: a ready one, a prebuilt one, or one that cargo builds.
  #
  # EMBEDDED_EPMD_NATIVE     a ready library to take
  # EMBEDDED_EPMD_BASE_URL   where prebuilt libraries are, or  config :embedded_epmd, base_url: "https://..."
  # EMBEDDED_EPMD_BUILD=1    build in any case, or  config :embedded_epmd, build: true
  # CARGO_BUILD_TARGET       a target triple for cross-compilation, as cargo itself reads it, or what Nerves sets

  alias EmbeddedEpmd.Build.{Cargo, Prebuilt, Target}

  # Compiled only when they are needed.
  @compile {:no_warn_undefined, [Cargo, Prebuilt, Target]}

  @doc "Puts the library into the application's folder; returns what a compiler of Mix does."
  def bring do
    case library() do
      {:ok, files} -> install(files)
      {:error, sentence} -> error(sentence)
    end
  end

  @doc "Removes it."
  def remove, do: _ = File.rm_rf(folder())

  defp library do
    cond do
      match?({:win32, _}, :os.type()) -> {:error, "embedded_epmd does not run on Windows"}
      ready = variable("EMBEDDED_EPMD_NATIVE") -> ready(ready)
      url = base_url() -> prebuilt(url, target())
      true -> build(target())
    end
  end

  defp ready(path) do
    case File.read(path) do
      {:ok, library} ->
        # One that is there already was checked when it came.
        if File.read(installed()) != {:ok, library}, do: check(library, path)
        {:ok, %{library: library, notice: nil}}

      {:error, _} ->
        {:error, "EMBEDDED_EPMD_NATIVE names no file: #{path}"}
    end
  end

  defp check(library, path) do
    {_, triple} = target()

    with {:error, fault} <- Target.check(library, triple),
         do: Mix.shell().error("warning: EMBEDDED_EPMD_NATIVE #{fault}, and this VM is #{triple}: #{path}")
  end

  defp target do
    load(~w(target))
    Target.find()
  end

  defp prebuilt(url, {_, triple} = target) do
    load(~w(http download prebuilt))

    with {:build, reason} <- Prebuilt.read(url, Mix.Project.config()[:version], triple) do
      Mix.shell().info("No prebuilt library is taken, so it is built: #{reason}")
      build(target)
    end
  end

  defp build(target) do
    load(~w(cargo))

    with {:ok, path} <- Cargo.build(target), {:ok, library} <- File.read(path) do
      {:ok, %{library: library, notice: nil}}
    else
      {:error, sentence} when is_binary(sentence) -> {:error, sentence}
      {:error, reason} -> {:error, "the library that cargo made cannot be read: #{:file.format_error(reason)}"}
    end
  end

  defp load(files), do: Enum.each(files, &Code.require_file("#{&1}.exs", __DIR__))

  # A version that is not released has no library.
  defp base_url do
    version = Mix.Project.config()[:version]
    build? = Application.get_env(:embedded_epmd, :build, false)
    forced? = Enum.any?(["EMBEDDED_EPMD_BUILD", "RUSTLER_PRECOMPILED_FORCE_BUILD_ALL"], &on?/1)

    unless build? or forced? or String.ends_with?(version, "-dev") do
      variable("EMBEDDED_EPMD_BASE_URL") || Application.get_env(:embedded_epmd, :base_url) ||
        Mix.Project.config()[:base_url]
    end
  end

  defp on?(name), do: variable(name) not in [nil, "0", "false"]

  defp variable(name) do
    case System.get_env(name, "") do
      "" -> nil
      value -> value
    end
  end

  defp install(%{library: library, notice: notice}) do
    File.mkdir_p!(folder())
    changed = [replace(installed(), library), replace(Path.join(folder(), "NOTICE"), notice)]
    if :changed in changed, do: {:ok, []}, else: {:noop, []}
  end

  # A running VM may have the old file mapped: overwriting it would end that VM, putting another in its place does not.
  defp replace(path, contents) do
    cond do
      File.read(path) == {:ok, contents} ->
        :same

      contents == nil ->
        if File.rm(path) == :ok, do: :changed, else: :same

      true ->
        part = "#{path}.#{System.pid()}"
        File.write!(part, contents)
        File.rename!(part, path)
        :changed
    end
  end

  # The VM looks for .so on every Unix.
  defp installed, do: Path.join(folder(), "epmd_nif.so")
  defp folder, do: Path.join([Mix.Project.app_path(), "priv", "native"])

  defp error(message) do
    Mix.shell().error(message)
    {:error, []}
  end
end
