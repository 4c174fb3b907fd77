defmodule Support.Release do
  @moduledoc """
  The release of `examples/greeter`, assembled once for all tests and run with its own scripts.
  """

  import Support.Vm, only: [eventually: 1]

  @example Path.expand("../../examples/greeter", __DIR__)

  @doc """
  The folder of the release `prod` with the library that these tests were compiled with. It is assembled once, and deleted
  when all tests have run.
  """
  def assemble, do: Support.Once.get(__MODULE__, &assemble_new/0, &File.rm_rf!/1)

  @doc """
  The library as that release compiled it, which takes seconds. In `_build/ENVIRONMENT/lib` of another project, with the
  times of its files, Mix takes it for compiled.
  """
  def compiled_library, do: Path.join([assemble(), "build", "lib", "embedded_epmd"])

  defp assemble_new do
    folder = Path.join(System.tmp_dir!(), "embedded_epmd_release_#{System.pid()}")
    library = Path.join([:code.lib_dir(:embedded_epmd), "priv", "native", "epmd_nif.so"])

    environment = [
      {"MIX_ENV", "prod"},
      {"MIX_BUILD_PATH", Path.join(folder, "build")},
      {"EMBEDDED_EPMD_NATIVE", library}
    ]

    arguments = ["release", "prod", "--quiet", "--path", Path.join(folder, "prod")]
    {output, status} = System.cmd("mix", arguments, cd: @example, env: environment, stderr_to_stdout: true)
    status == 0 || raise "mix release failed:\n" <> output
    folder
  end

  @doc "Runs a command of the release to its end, with further variables; returns its output and status."
  def run(release, command, arguments \\ [], variables \\ []) do
    System.cmd(bin(release), [command | arguments], env: environment(release) ++ variables, stderr_to_stdout: true)
  end

  @doc """
  Types a line into `remote`, which needs a terminal, and waits until the terminal shows a text. The input is never
  closed, since Elixir 1.18 and newer would then halt the remote node.
  """
  def remote(release, line, text) do
    environment = for {name, value} <- environment(release), do: {to_charlist(name), to_charlist(value || "")}
    arguments = ["-qec", "#{bin(release)} remote", "/dev/null"]
    options = [:binary, :stderr_to_stdout, :exit_status, args: arguments, env: environment]
    terminal = Port.open({:spawn_executable, System.find_executable("script")}, options)
    shown = await_shown(terminal, "iex(", "")
    Port.command(terminal, line <> "\n")
    await_shown(terminal, text, shown)
    for pid <- processes(release), command(pid) =~ "-remsh", do: {_, 0} = System.cmd("kill", ["-9", pid])

    receive do
      {^terminal, {:exit_status, _}} -> :ok
    after
      60_000 -> raise "the terminal did not end with its client"
    end
  end

  defp await_shown(terminal, text, shown) do
    if shown =~ text do
      shown
    else
      receive do
        {^terminal, {:data, more}} -> await_shown(terminal, text, shown <> more)
        {^terminal, {:exit_status, status}} -> raise "remote ended with status #{status}:\n" <> shown
      after
        60_000 -> raise "remote did not show #{inspect(text)}, but:\n" <> shown
      end
    end
  end

  defp command(pid) do
    case File.read("/proc/#{pid}/cmdline") do
      {:ok, command} -> command
      {:error, _} -> ""
    end
  end

  @doc "Starts the release in the background and waits until its application runs; returns the VM's process id."
  def start(release) do
    # In a process group of its own, like a service.
    command = "exec setsid \"$0\" start </dev/null >\"$1\" 2>&1 & echo $!"
    log = log(release)
    {pid, 0} = System.cmd("sh", ["-c", command, bin(release), log], env: environment(release))
    pid = String.trim(pid)
    eventually(fn -> greetings(log) > 0 or (not alive?(pid) and raise "it ended: " <> File.read!(log)) end)
    pid
  end

  @doc "The file with the output of the release since its last start."
  def log(release), do: Path.join(release.tmp, "boot.log")

  @doc "How often the release has booted, according to this file: its application greets each time."
  def greetings(log) do
    case File.read(log) do
      {:ok, text} -> length(String.split(text, "greets")) - 1
      {:error, :enoent} -> 0
    end
  end

  @doc "Whether a process runs; a zombie does not."
  def alive?(pid), do: File.exists?("/proc/#{pid}/exe") and File.read_link("/proc/#{pid}/exe") != {:error, :enoent}

  @doc "Kills every process with this release's environment, children included, and deletes its folder."
  def clean_up(release) do
    for pid <- processes(release), do: System.cmd("kill", ["-9", pid], stderr_to_stdout: true)
    File.rm_rf!(release.tmp)
  end

  @doc "The processes with this release's environment."
  def processes(release) do
    for pid <- File.ls!("/proc"),
        pid =~ ~r/^\d+$/,
        {:ok, environment} <- [File.read("/proc/#{pid}/environ")],
        environment =~ "RELEASE_TMP=#{release.tmp}",
        do: pid
  end

  @doc "The program names of these processes."
  def programs(release) do
    for pid <- processes(release), {:ok, name} <- [File.read("/proc/#{pid}/comm")], do: String.trim(name)
  end

  defp bin(release), do: Path.join([release.folder, "prod", "bin", "prod"])

  defp environment(release) do
    [
      {"RELEASE_TMP", release.tmp},
      {"RELEASE_MODE", release.mode},
      {"RELEASE_NODE", "#{release.node}@#{Map.get(release, :host, "127.0.0.1")}"},
      {"RELEASE_DISTRIBUTION", "name"},
      {"ERL_EPMD_PORT", "#{release.port}"},
      {"ERL_EPMD_ADDRESS", "127.0.0.1"},
      {"ERL_AFLAGS", "-kernel inet_dist_use_interface {127,0,0,1}"},
      {"ERL_FLAGS", nil},
      {"MIX_ENV", nil}
    ]
    |> Map.new()
    |> Map.merge(Map.new(Map.get(release, :variables, [])))
    |> Enum.to_list()
  end
end
