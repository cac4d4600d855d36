"""Dialogs without a person: a test says beforehand how each will be answered, and reads afterwards what was asked.

    dialogs.answers.append(qt.QMessageBox.Yes)      # the next question
    dialogs.answers.append("/some/folder/x.csv")    # the next file dialog ("" is Cancel)
    dialogs.shown                                   # texts of the message boxes, captions of the file dialogs

A message with one button closes by itself. A question nobody has answered raises, and is noted in `unanswered`.
"""

from PySide6 import QtCore

answers, shown, unanswered = [], [], []


def take_over(QtWidgets):
    box, dialog, files = QtWidgets.QMessageBox, QtWidgets.QDialog, QtWidgets.QFileDialog
    qt_exec = dialog.exec

    def exec_message(self):
        shown.append(self.text)
        button = _only_button(self) or self.button(box.StandardButton(_next_answer(self.text)))
        QtCore.QTimer.singleShot(0, button.click)
        return run_event_loop(self)

    def exec_dialog(self):
        """A dialog of one's own: the answer is a function that uses it; without one it has to close by itself."""
        shown.append(self.windowTitle)
        if answers and callable(answers[0]):
            use = answers.pop(0)
            QtCore.QTimer.singleShot(0, lambda: use(self))
        QtCore.QTimer.singleShot(10000, self, lambda: (unanswered.append(self.windowTitle), self.reject()))
        return run_event_loop(self)

    def static_message(icon, default):
        def show(parent, title, text, buttons=default, defaultButton=box.NoButton):
            return box(icon, title, text, buttons, parent).exec()

        return staticmethod(show)

    def file_dialog(empty):
        def ask(parent=None, caption="", *arguments, **options):
            shown.append(caption)
            return _next_answer(caption) or empty  # PythonQt returns the path alone, without the chosen filter

        return staticmethod(ask)

    def run_event_loop(self):
        # slicer.util asks for deletion before it shows a message. In Slicer that waits for the application's own event
        # loop; a test runs outside of any, where the dialog's loop would already delete it.
        QtCore.QCoreApplication.removePostedEvents(self, int(QtCore.QEvent.Type.DeferredDelete))
        return int(qt_exec(self))

    dialog.exec = dialog.exec_ = exec_dialog
    box.exec = box.exec_ = exec_message
    for name, default in (
        ("information", box.Ok),
        ("warning", box.Ok),
        ("critical", box.Ok),
        ("question", box.Yes | box.No),
    ):
        setattr(box, name, static_message(getattr(box, name.capitalize()), default))
    for name in ("getOpenFileName", "getSaveFileName", "getExistingDirectory"):
        setattr(files, name, file_dialog(""))
    files.getOpenFileNames = file_dialog(())


def _only_button(message_box):
    buttons = message_box.buttons()
    return buttons[0] if len(buttons) == 1 else None


def _next_answer(question):
    if not answers:
        unanswered.append(question)
        raise AssertionError(f"no test has answered: {question}")
    return answers.pop(0)
