"""Training, devices: GPUs, or processes on the CPU."""

import qt
from slicer.i18n import tr as _

from .. import arguments
from . import Section

ROW, FRAME = 22, 6  # pixels of the list


class TrainingDevicesSection(Section):
    """Chooses what trains."""

    def __init__(self, panel):
        super().__init__(panel)
        self.bound = {"trainingProcesses": self.ui.processesBox}
        self.when(self.ui.deviceList, "itemChanged(QListWidgetItem*)", self._chosen)

    def show(self):
        ui, devices = self.ui, self.panel.environment.devices
        chosen = arguments.gpus(self.choices, devices)
        names = {number: _("GPU {number} (not seen here)").format(number=number) for number in chosen}
        for device in devices:
            if device["id"].startswith("cuda:"):
                names[int(device["id"].removeprefix("cuda:"))] = device["name"]
        was_blocked = ui.deviceList.blockSignals(True)
        ui.deviceList.clear()
        for row, number in enumerate(sorted(names)):
            ui.deviceList.addItem(f"{number}: {names[number]}")
            item = ui.deviceList.item(row)
            item.setToolTip(names[number])  # a long name is cut off, and must not make the panel wider
            item.setFlags(qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsEnabled)
            item.setCheckState(qt.Qt.Checked if number in chosen else qt.Qt.Unchecked)
            item.setData(qt.Qt.UserRole, number)
        ui.deviceList.blockSignals(was_blocked)
        ui.deviceList.visible = bool(names)
        ui.deviceList.setMaximumHeight(ROW * len(names) + FRAME)
        ui.cpuLabel.text = _("CPU, processes:") if not names else _("or the CPU, processes:")
        ui.processesBox.enabled = not chosen

    def _chosen(self):
        items = [self.ui.deviceList.item(row) for row in range(self.ui.deviceList.count)]
        checked = [str(item.data(qt.Qt.UserRole)) for item in items if item.checkState() == qt.Qt.Checked]
        self.panel.recipe.put_with_suggestion(trainingDevices=",".join(checked))
