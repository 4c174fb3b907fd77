defmodule Mix.Tasks.EmbeddedEpmd.Doctor do
  @shortdoc "Checks a project's release files and this host's port"

  @moduledoc """
  Checks the files that set up a project's releases, and finds the owner of the port on this host.

      mix embedded_epmd.doctor

  Run it where releases are assembled, which in an umbrella is the root. It exits with status 1 when there is a problem.
  To examine a running release:

      bin/app rpc "EmbeddedEpmd.doctor()"

  If `rpc` cannot reach the node:

      bin/app eval "EmbeddedEpmd.doctor()"

  ## Why this node does not connect to another

      mix embedded_epmd.doctor other@host
      bin/app rpc 'EmbeddedEpmd.doctor(:"other@host")'

  Both perform the steps of a connection to that node, and print what each step found and how long it took. At the first
  step that fails they explain what the failure means and what to do, and the task exits with status 1. The task runs in
  a VM that is not a node, with the cookie of its flag (`ELIXIR_ERL_OPTIONS="-setcookie ..."`) or of `~/.erlang.cookie`.
  Use `rpc` to check the settings of a node as well.

  These are the steps. Each waits up to a few seconds if nothing answers.

    * `:name` - whether the names fit together: both short or both long
    * `:here` - whether a setting of this VM prevents the connection
    * `:address` - the address of the host, in the family of this node's distribution, and where it comes from
    * `:epmd` - whether the EPMD there answers, and knows the name
    * `:port` - whether the node's port accepts connections
    * `:handshake` - whether the node accepts this VM: protocol, TLS, `:net_kernel.allow/1`, cookie
    * `:identity` - whether it is already connected to another node with this node's name

  This node itself is neither connected nor disconnected. The probe is a separate hidden node, called
  `doctor-NAME-PID@HOST` after this node's name and process id. If all is well, the other node has it in
  `Node.list(:hidden)` for some milliseconds, answers one call from it, and logs nothing. Otherwise it logs what it
  would log for this node: `Connection attempt from node ... rejected. Invalid challenge reply.` if the cookies
  differ, `Connection attempt from disallowed node`, or a TLS alert.
  """

  use Mix.Task

  import EmbeddedEpmd.Doctor.Finding

  alias EmbeddedEpmd.Boot.Config
  alias EmbeddedEpmd.Doctor
  alias Mix.EmbeddedEpmd, as: Project

  @impl Mix.Task
  def run(arguments) do
    case Project.arguments!(arguments, [], ["NODE"]) do
      {[], []} -> examine()
      {[], [node]} -> if EmbeddedEpmd.doctor(node) == :error, do: exit({:shutdown, 1})
    end
  end

  defp examine do
    releases = Project.releases!()
    parameter = Project.parameter()

    findings =
      [contents(releases)] ++
        [parameter(parameter, releases)] ++
        Enum.map(Project.keys(), fn {file, keys} -> ignored(file, keys) end) ++
        Enum.map(Project.templates(releases), &template(&1, parameter != nil)) ++
        Doctor.Owner.judge(Doctor.Facts.host())

    findings = List.flatten(findings)
    Mix.shell().info(String.trim_trailing(Doctor.format(findings)))
    if Enum.any?(findings, &(&1.status == :problem)), do: exit({:shutdown, 1})
  end

  defp contents(releases) do
    if Enum.any?(releases, & &1.contains?) do
      Enum.map(releases, &release/1)
    else
      problem(
        "No release of this project contains embedded_epmd: #{Project.why_missing()}.",
        "One that names EmbeddedEpmd.Discovery all the same does not boot.",
        "Correct the dependency in mix.exs."
      )
    end
  end

  defp release(%{error: error, name: name}) when error != nil do
    warning(
      "Whether the release #{name} contains embedded_epmd cannot be told: #{error}.",
      "One that names EmbeddedEpmd.Discovery and does not contain it does not boot.",
      "Run this in the environment that the release is assembled in (MIX_ENV=prod)."
    )
  end

  defp release(%{contains?: true}), do: []
  defp release(%{name: name}), do: ok("The release #{name} does not contain embedded_epmd: #{Project.why_missing()}.")

  defp parameter(nil, _releases), do: []

  defp parameter({file, _module} = parameter, releases) do
    case Project.parameter_error(parameter, releases) do
      nil ->
        ok("#{file} names EmbeddedEpmd.Discovery as the kernel parameter epmd_module: no flag has to.")

      sentence ->
        problem(
          "#{sentence}.",
          "Releases of this project will not use embedded_epmd as they should.",
          "Change that line."
        )
    end
  end

  defp ignored(file, keys),
    do: Doctor.Findings.ignored(for sentence <- Config.ignored(keys), do: "#{file}: #{sentence}")

  defp template(template, parameter?),
    do: [judged(template, parameter?) | Enum.map(Project.unread(template), &unread(template, &1))]

  defp unread(%{path: path}, included) do
    warning(
      "#{path} includes #{included}, which cannot be read here.",
      "Its flags count as well: one that contradicts, or that the other file lacks, is not noticed.",
      "Run bin/app eval \"EmbeddedEpmd.doctor()\" where the release runs."
    )
  end

  defp judged(%{path: path, content: content} = template, parameter?) do
    case Project.judge(template, parameter?) do
      :nothing_to_do ->
        ok("#{path} has all it needs.")

      {:contradiction, sentence} ->
        problem(
          "#{path} #{sentence}.",
          "Releases of this project will not use embedded_epmd as they should.",
          "Change that, then run mix embedded_epmd.install."
        )

      {:amend, _new, lines} ->
        problem(
          "#{path} #{if content, do: "does not have", else: "is missing; it should have"} #{Enum.join(lines, " and ")}.",
          why(lines),
          "Run mix embedded_epmd.install."
        )
    end
  end

  defp why(lines) do
    if Enum.any?(lines, &String.starts_with?(&1, ["-start_epmd", "-epmd_module"])),
      do: "Releases of this project start an epmd daemon or register with one.",
      else: "bin/app rpc, remote, stop and pid cannot connect to a node with another transport."
  end
end
