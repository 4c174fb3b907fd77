defmodule Support.Unit do
  @moduledoc """
  Units of systemd in the container, as `guides/systemd.md` has them.
  """

  import Support.Container

  alias Support.Guide

  @folder "/etc/systemd/system"
  @guide Path.expand("../../guides/systemd.md", __DIR__)

  @doc "The first block of the guide with this text."
  def guide_block(text), do: Guide.block(File.read!(@guide), text)

  @doc "The block of the guide for a file in this folder."
  def guide_drop_in(folder), do: Guide.block_after(File.read!(@guide), folder <> "/")

  @doc "Writes a file of systemd's configuration."
  def write_unit(file, text) do
    write(Path.join(@folder, file), text)
    inside(~w(systemctl daemon-reload))
  end

  @doc "The guide's units of these names, with the release of a folder of /opt/made, and with further settings."
  def install(names, settings \\ [], folder \\ "ours") do
    for name <- List.wrap(names) do
      release = release(name)
      inside(~w(ln -sfnT /opt/made/#{folder}/#{release} /opt/#{name}))
      unit = guide_block("[Unit]") |> String.replace("prod", name) |> String.replace("/bin/#{name}", "/bin/#{release}")
      write_unit("#{name}.service", unit)
      if settings != [], do: setting(name, settings)
    end
  end

  @doc "The release of a service: it is called prod or stage."
  def release(name), do: if(name in ["prod", "stage"], do: name, else: "stage")

  @doc "What stands in the guide for a service, beside the unit."
  def install_drop_in(name, text, file \\ "guide"), do: write_unit("#{name}.service.d/#{file}.conf", text)

  @doc "Gives a service the descriptor store, as the guide has it."
  def install_store(name, file \\ "guide"), do: install_drop_in(name, guide_block("FileDescriptorStoreMax"), file)

  @doc "The guide's socket unit of this name."
  def install_socket(name),
    do: write_unit("#{name}-epmd.socket", String.replace(guide_block("ListenStream"), "prod", name))

  @doc "Installs prod with the guide's socket unit, or with another, which begins to listen."
  def activate_prod(socket \\ guide_block("ListenStream")) do
    install("prod", "Sockets=prod-epmd.socket")
    write_unit("prod-epmd.socket", socket)
    inside(~w(systemctl enable --quiet prod-epmd.socket))
    inside(~w(systemctl restart prod-epmd.socket))
  end

  @doc "A test ends a service more often within 10 seconds than systemd lets it start."
  def let_it_restart(name), do: install_drop_in(name, "[Unit]\nStartLimitIntervalSec=0\n", "limit")

  @doc "Adds lines to the section [Service] of a service. Of two for one setting, the later one counts."
  def setting(name, lines) do
    number = String.pad_leading("#{System.unique_integer([:positive, :monotonic])}", 6, "0")
    install_drop_in(name, Enum.map_join(["[Service]" | List.wrap(lines)], &(&1 <> "\n")), "set#{number}")
  end

  @doc "Removes all that stands beside a service's unit."
  def remove_settings(name), do: inside(~w(rm -rf #{@folder}/#{name}.service.d))

  @doc "Settings of the application, as its config.exs would have them, in Erlang's notation."
  def configure(name, settings) do
    write("/opt/config/#{name}.config", "[{embedded_epmd, #{settings}}].\n")
    setting(name, "Environment=RELEASE_SYS_CONFIG=/opt/config/#{name}")
  end

  @doc "Has each of these services name the users, as the guide has it."
  def name_users(names, users \\ ["prod", "stage"]) do
    users = Enum.map_join(users, ", ", &~s(<<"#{&1}">>))
    for name <- names, do: configure(name, "[{hand_over, [{users, [#{users}]}]}]")
  end
end
