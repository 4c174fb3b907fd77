defmodule Mix.Tasks.EmbeddedEpmd.Install do
  @shortdoc "Sets up a project's releases for embedded_epmd"

  @moduledoc """
  Writes or amends the two files of a project that tell its releases to use `embedded_epmd`, and shows the line for the
  supervision tree.

      mix embedded_epmd.install [--yes]

    * `rel/vm.args.eex` gets `-start_epmd false` and `-epmd_module Elixir.EmbeddedEpmd.Discovery`
    * `rel/remote.vm.args.eex`, which `bin/app rpc`, `remote`, `stop` and `pid` read, gets `-start_epmd false`

  A file that is there is shown as it would change, and changed only when you agree; `--yes` agrees. Nothing is changed
  where one of the files has a flag that contradicts: another `-epmd_module`, `-start_epmd true`, or `-erl_epmd_port`,
  with which a node needs no EPMD at all. The task can be run again.
  """

  use Mix.Task

  @module "Elixir.EmbeddedEpmd.Discovery"
  @files [
    {"rel/vm.args.eex", [{"-start_epmd", "false"}, {"-epmd_module", @module}]},
    {"rel/remote.vm.args.eex", [{"-start_epmd", "false"}]}
  ]
  @heading "## The EPMD is inside the VM: https://hexdocs.pm/mix/Mix.Tasks.Release.html#module-vm-args"

  @impl Mix.Task
  def run(arguments) do
    {options, []} = OptionParser.parse!(arguments, strict: [yes: :boolean])

    if Mix.Project.umbrella?(),
      do: Mix.raise("an umbrella has its releases in one place: run this where `releases:` stands in mix.exs")

    plans = for {path, flags} <- @files, do: plan(path, flags)

    case for {:contradiction, sentence} <- plans, do: sentence do
      [] -> Enum.each(plans, &carry_out(&1, options[:yes]))
      sentences -> Mix.raise("nothing was changed:\n\n" <> Enum.map_join(sentences, "\n", &("  * " <> &1)))
    end

    Mix.shell().info("""

    As the first child of your application's supervisor:

        children = [EmbeddedEpmd]
    """)
  end

  @doc false
  # The files, and the flags each needs.
  @spec files() :: [{Path.t(), [{String.t(), String.t()}]}]
  def files, do: @files

  @doc false
  # What is to be done to a file with this content, `nil` where there is none. Pure.
  @spec amend(String.t() | nil, [{String.t(), String.t()}]) ::
          {:ok, String.t()} | :nothing_to_do | {:contradiction, String.t()}
  def amend(content, wanted) do
    given = flags(content || "")

    case Enum.find_value(given, &contradiction(&1, wanted)) do
      nil ->
        case for({flag, value} <- wanted, {flag, value} not in given, do: [flag, " ", value, "\n"]) do
          [] -> :nothing_to_do
          missing -> {:ok, IO.iodata_to_binary([before(content), @heading, "\n", missing])}
        end

      sentence ->
        {:contradiction, sentence}
    end
  end

  defp before(nil), do: ""
  defp before(""), do: ""
  defp before(content), do: [String.trim_trailing(content), "\n\n"]

  # The flags of the file that matter here; a line that begins with # has none.
  defp flags(content) do
    words = for line <- String.split(content, "\n"), not (line =~ ~r/^\s*#/), word <- String.split(line), do: word

    for {flag, value} <- Enum.zip(words, Enum.drop(words, 1) ++ [""]),
        flag in ["-start_epmd", "-epmd_module", "-erl_epmd_port"],
        do: {flag, value}
  end

  defp contradiction({"-start_epmd", value}, _) when value != "false",
    do: "has -start_epmd #{value}, which starts OTP's daemon"

  defp contradiction({"-erl_epmd_port", port}, _),
    do: "has -erl_epmd_port #{port}: with a fixed port a node needs no EPMD, neither OTP's nor this one"

  defp contradiction({"-epmd_module", module}, wanted) do
    cond do
      module != @module -> "has -epmd_module #{module}, another discovery module"
      {"-epmd_module", module} not in wanted -> "has -epmd_module #{module}, which is not for short-lived clients"
      true -> nil
    end
  end

  defp contradiction(_, _), do: nil

  defp plan(path, wanted) do
    content = with {:ok, content} <- File.read(path), do: content
    content = if is_binary(content), do: content

    case amend(content, wanted) do
      {:contradiction, sentence} -> {:contradiction, "#{path} #{sentence}"}
      :nothing_to_do -> {:nothing_to_do, path}
      {:ok, new} -> {:write, path, content, new}
    end
  end

  defp carry_out({:nothing_to_do, path}, _yes), do: Mix.shell().info("* #{path} has all it needs")

  defp carry_out({:write, path, old, new}, yes) do
    if old in [nil, ""] or yes == true or agreed?(path, old, new) do
      File.mkdir_p!(Path.dirname(path))
      File.write!(path, new)
      Mix.shell().info("* #{if old, do: "changed", else: "created"} #{path}")
    else
      Mix.shell().info("* left #{path} as it is; it needs:\n\n" <> added(old, new))
    end
  end

  defp agreed?(path, old, new) do
    Mix.shell().info("#{path} would get these lines at its end:\n\n" <> added(old, new))
    Mix.shell().yes?("Change #{path}?")
  end

  # The text only grows at its end, so that this is the whole difference.
  defp added(old, new) do
    new
    |> String.replace_prefix(String.trim_trailing(old), "")
    |> String.trim()
    |> String.split("\n")
    |> Enum.map_join(&"    + #{&1}\n")
  end
end
